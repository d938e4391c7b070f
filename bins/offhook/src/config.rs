//! Settings from `offhook.toml` and the environment (which wins), checked as a whole before anything starts.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bridge::{AssistantPlan, ElevenLabsPlan, LivePlan, OpenAiPlan, SoundPlan, TranscriptionPlan, Turns};
use call::{CallConfig, Confirm, HeardBy, Interruption, KeyAction, Meanwhile};
use control::ApiSettings;
use desk::{Assistant, HttpTool, Language, McpServer, Method, OutboundDefaults, PublicUrl, Route, Schema, Settings, Templates};
use media::enhance::Bed;
use media::file::{Limits, Reader};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::SecretString;
use toml::de::{DeTable, DeValue};
use twilio::is_e164;
use twilio::rest::{Account, Key, Rest};
use url::Url;

/// One setting: its place in the file, its name in the environment, what it means.
#[derive(Debug)]
pub struct Setting {
    /// `section.key` in `offhook.toml`.
    pub key: &'static str,
    pub env: &'static str,
    /// Older names in the environment, from the systems that offhook replaces.
    pub aliases: &'static [&'static str],
    pub default: &'static str,
    pub secret: bool,
    pub about: &'static str,
}

const fn setting(key: &'static str, env: &'static str, default: &'static str, about: &'static str) -> Setting {
    Setting { key, env, aliases: &[], default, secret: false, about }
}

const fn secret(key: &'static str, env: &'static str, about: &'static str) -> Setting {
    Setting { key, env, aliases: &[], default: "", secret: true, about }
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    setting("server.listen", "OFFHOOK_LISTEN", "127.0.0.1:8000", "Address and port to listen on"),
    Setting {
        key: "server.public_url",
        env: "PUBLIC_URL",
        aliases: &["TWILIO_WEBHOOK_BASE_URL", "API_URL", "NEXT_PUBLIC_APP_URL"],
        default: "",
        secret: false,
        about: "Address under which Twilio reaches this server, path prefix included",
    },
    setting(
        "server.node_url",
        "OFFHOOK_NODE_URL",
        "",
        "With several processes behind one public address: the address of this very one, to which its media sockets come; default: server.public_url",
    ),
    setting("server.data_dir", "OFFHOOK_DATA_DIR", "data", "Folder for journal, database and recordings"),
    secret(
        "server.database_url",
        "DATABASE_URL",
        "sqlite:PATH, or postgres://USER:PASSWORD@HOST/DATABASE; default: offhook.db in the data folder",
    ),
    setting(
        "server.objects",
        "OFFHOOK_OBJECTS",
        "",
        "Where recordings are kept, encrypted: a folder, or s3://BUCKET/PREFIX with the AWS_… variables; none: as plain files where they were made; default: objects in the data folder",
    ),
    secret(
        "server.encryption_keys",
        "OFFHOOK_ENCRYPTION_KEYS",
        "Keys for recordings and secrets at rest, 64 hexadecimal digits each, the newest first, with commas between; default: a file `key` in the data folder, made at the first start. Several processes need the same",
    ),
    secret(
        "server.jwt_secret",
        "OFFHOOK_JWT_SECRET",
        "Signs the tokens of people who have signed in, at least 32 characters; default: made of the encryption key. Several processes need the same",
    ),
    setting(
        "server.cors_origins",
        "CORS_ORIGINS",
        "",
        "Pages of other origins that may ask the API, such as https://panel.example.com, with commas between",
    ),
    setting(
        "server.trusted_authorities",
        "OFFHOOK_TRUSTED_AUTHORITIES",
        "",
        "A PEM file with authorities whose certificates providers may show, beside the public ones, such as a company's own",
    ),
    setting(
        "server.api_per_second",
        "OFFHOOK_API_PER_SECOND",
        "20",
        "API requests of one person or program in a second, 1 to 10000; five times as many at once",
    ),
    setting("server.recording_days", "OFFHOOK_RECORDING_DAYS", "", "Recordings are deleted after so many days; empty: never"),
    setting(
        "server.max_calls",
        "OFFHOOK_MAX_CALLS",
        "auto",
        "Calls at a time; further callers hear that all lines are busy. auto: as many as the processors were measured to carry, and none while they do not keep up",
    ),
    setting(
        "server.drain_seconds",
        "OFFHOOK_DRAIN_SECONDS",
        "300",
        "On SIGTERM: how long live calls may go on before they are handed over",
    ),
    setting(
        "server.log",
        "OFFHOOK_LOG",
        "info",
        "What is logged, as for RUST_LOG; `json,` in front makes each line a JSON object",
    ),
    setting("server.node", "OFFHOOK_NODE", "node-1", "Name of this process in records"),
    setting("server.time_zone", "OFFHOOK_TIME_ZONE", "UTC", "Where the business is, as in Europe/Bucharest"),
    setting("twilio.account_sid", "TWILIO_ACCOUNT_SID", "", "AC…, from the Twilio console"),
    secret("twilio.auth_token", "TWILIO_AUTH_TOKEN", "Primary auth token: checks that webhooks are Twilio's"),
    setting("twilio.api_key", "TWILIO_API_KEY", "", "SK…: a key for requests to Twilio's REST API, instead of the auth token"),
    secret("twilio.api_key_secret", "TWILIO_API_KEY_SECRET", "The secret of that key"),
    secret("twilio.auth_token_secondary", "TWILIO_AUTH_TOKEN_SECONDARY", "Second token accepted while tokens are rotated"),
    setting("twilio.phone_number", "TWILIO_PHONE_NUMBER", "", "Our number in E.164; calls to other numbers are then refused"),
    setting(
        "twilio.calls_per_second",
        "TWILIO_CALLS_PER_SECOND",
        "1",
        "Calls that are made in a second, 0.1 to 100: the account's limit",
    ),
    setting("twilio.api_base_url", "TWILIO_API_BASE_URL", "https://api.twilio.com", "Address of Twilio's REST API"),
    setting(
        "twilio.skip_signature_validation",
        "SKIP_WEBHOOK_SIGNATURE_VALIDATION",
        "false",
        "Lets every request in; only on loopback without public address",
    ),
    setting("assistant.name", "OFFHOOK_ASSISTANT_NAME", "front-desk", "Name of the assistant in records"),
    setting(
        "assistant.provider",
        "OFFHOOK_PROVIDER",
        "openai",
        "Who answers: openai, elevenlabs or openai-live; several, with commas between, are tried in that order",
    ),
    setting(
        "assistant.prepare",
        "OFFHOOK_PREPARE",
        "true",
        "Open the assistant's session while it rings: callers are greeted at once",
    ),
    setting(
        "assistant.protect_greeting",
        "OFFHOOK_PROTECT_GREETING",
        "false",
        "The greeting cannot be interrupted; until it is over the assistant hears nothing",
    ),
    setting(
        "assistant.notice",
        "OFFHOOK_NOTICE",
        "",
        "An audio file that is heard out before anything else, such as a legal notice",
    ),
    setting("assistant.hold_sound", "OFFHOOK_HOLD_SOUND", "", "An audio file that callers on hold hear, over and over"),
    setting(
        "assistant.last_resort",
        "OFFHOOK_LAST_RESORT",
        "",
        "A name under [destinations]: who is rung when no assistant can answer; otherwise callers hear an apology",
    ),
    setting("assistant.language", "OFFHOOK_LANGUAGE", "en", "en or ro"),
    setting(
        "assistant.instructions",
        "OFFHOOK_INSTRUCTIONS",
        "You answer the telephone of a small business. Keep answers short and friendly, speak the caller's language. \
         When the caller has nothing further to ask, call end_call.",
        "The prompt (OpenAI)",
    ),
    setting(
        "assistant.greeting",
        "GREETING_MESSAGE",
        "Greet the caller in one short sentence and ask how you can help.",
        "How to open the call (OpenAI)",
    ),
    setting(
        "assistant.recording",
        "OFFHOOK_RECORDING",
        "false",
        "Record calls in two channels; in many places callers must be told and agree",
    ),
    setting(
        "assistant.recording_format",
        "OFFHOOK_RECORDING_FORMAT",
        "wav",
        "wav (a crash costs a second at most) or opus (several times smaller, coded at 32 kbit/s)",
    ),
    secret("openai.api_key", "OPENAI_API_KEY", "OpenAI key"),
    setting(
        "openai.base_url",
        "OPENAI_BASE_URL",
        "https://api.openai.com/v1",
        "Address of OpenAI's API, or of a server that speaks the same",
    ),
    setting("openai.realtime_url", "OPENAI_REALTIME_URL", "", "Address of the Realtime socket; default: from openai.base_url"),
    setting("openai.model", "OPENAI_MODEL", "gpt-realtime-2.1", "Realtime model"),
    setting("openai.voice", "OPENAI_VOICE", "marin", "Voice"),
    setting(
        "openai.transcription_model",
        "OPENAI_TRANSCRIPTION_MODEL",
        "gpt-transcribe",
        "Writes down what the caller says; empty: nobody does",
    ),
    setting(
        "openai.transcription_prompt",
        "OPENAI_TRANSCRIPTION_PROMPT",
        "",
        "What the calls are about, for that model; not every one takes it",
    ),
    setting(
        "openai.transcription_keywords",
        "OPENAI_TRANSCRIPTION_KEYWORDS",
        "",
        "Names and words to expect, with commas between; only gpt-transcribe and gpt-live-transcribe",
    ),
    setting(
        "openai.turns",
        "OPENAI_TURNS",
        "balanced",
        "When the caller's turn is over: quick (300 ms of silence), balanced (500), patient (900), noisy (600, only loud speech), semantic (by meaning)",
    ),
    setting(
        "openai.vad_threshold",
        "OPENAI_VAD_THRESHOLD",
        "",
        "How loud speech must be, 0 to 1; instead of the preset's 0.5 (noisy: 0.7)",
    ),
    setting(
        "openai.vad_prefix_ms",
        "OPENAI_VAD_PREFIX_MS",
        "",
        "Audio before the detected start that belongs to the turn; instead of the preset's 300",
    ),
    setting("openai.vad_silence_ms", "OPENAI_VAD_SILENCE_MS", "", "Silence that ends the caller's turn; instead of the preset's"),
    setting(
        "openai.eagerness",
        "OPENAI_EAGERNESS",
        "auto",
        "For semantic turns: low (waits up to 8 s), medium (4 s), high (2 s), auto",
    ),
    setting(
        "openai.noise_reduction",
        "OPENAI_NOISE_REDUCTION",
        "",
        "OpenAI's own noise reduction: near_field (a telephone at the ear), far_field (hands-free); empty: none",
    ),
    setting("openai.speed", "OPENAI_SPEED", "", "How fast the voice speaks, 0.25 to 1.5; empty: as it is"),
    setting("openai.tool_choice", "OPENAI_TOOL_CHOICE", "auto", "Whether the model calls tools: auto, none, required"),
    setting(
        "openai.parallel_tool_calls",
        "OPENAI_PARALLEL_TOOL_CALLS",
        "",
        "Several tools at a time: true or false; only for reasoning models; empty: the model's own way",
    ),
    setting(
        "openai.reasoning_effort",
        "OPENAI_REASONING_EFFORT",
        "",
        "How much the model thinks before it speaks: minimal, low, medium, high, xhigh; only for reasoning models",
    ),
    setting("openai.max_output_tokens", "OPENAI_MAX_OUTPUT_TOKENS", "", "Longest answer, 1 to 4096 tokens; empty: no limit"),
    setting(
        "openai.retention_ratio",
        "OPENAI_RETENTION_RATIO",
        "",
        "What is kept of a context that is full, 0 to 1: less saves money on long calls; empty: as much as fits",
    ),
    setting(
        "openai.session_tokens",
        "OPENAI_SESSION_TOKENS",
        "20000",
        "A session whose answers are made from more tokens is replaced in the next pause, and its successor knows the words only: long calls stay quick and cheap; empty: never",
    ),
    setting("openai.tracing", "OPENAI_TRACING", "false", "Traces at OpenAI, which hold what was said"),
    setting("live.url", "OPENAI_LIVE_URL", "wss://api.openai.com/v1/live/sessions", "Address of OpenAI Live"),
    setting("live.model", "OPENAI_LIVE_MODEL", "gpt-live-1", "Voice model of OpenAI Live"),
    setting("live.thinking_model", "OPENAI_LIVE_THINKING_MODEL", "gpt-5-mini", "Text model behind that voice"),
    setting("live.voice", "OPENAI_LIVE_VOICE", "marin", "Voice of OpenAI Live"),
    secret("elevenlabs.api_key", "ELEVENLABS_API_KEY", "ElevenLabs key; without it the agent must be public"),
    secret(
        "elevenlabs.webhook_secret",
        "ELEVENLABS_WEBHOOK_SECRET",
        "Secret of the workspace's post-call webhook to /api/voice/post_call; several, with commas between, while it is changed",
    ),
    setting("elevenlabs.agent_id", "ELEVENLABS_AGENT_ID", "", "Which agent answers"),
    setting(
        "elevenlabs.phone_number",
        "ELEVENLABS_PHONE_NUMBER",
        "",
        "The provider's own number in E.164: calls that are made in mode `dial` are connected with it instead of being streamed",
    ),
    setting("elevenlabs.base_url", "ELEVENLABS_BASE_URL", "https://api.elevenlabs.io", "Address of ElevenLabs' API"),
    setting(
        "elevenlabs.allow_overrides",
        "ELEVENLABS_ALLOW_OVERRIDES",
        "false",
        "The agent's security settings permit overriding first message and language",
    ),
    setting(
        "elevenlabs.prompt",
        "ELEVENLABS_PROMPT",
        "",
        "Instead of the agent's own system prompt; its settings must permit it",
    ),
    setting(
        "elevenlabs.first_message",
        "ELEVENLABS_FIRST_MESSAGE",
        "",
        "Instead of the agent's own; its settings must permit it",
    ),
    setting("elevenlabs.voice_id", "ELEVENLABS_VOICE_ID", "", "Instead of the agent's own voice; its settings must permit it"),
    setting(
        "elevenlabs.speed",
        "ELEVENLABS_SPEED",
        "",
        "How fast the voice speaks, 0.7 to 1.2; the agent's settings must permit it",
    ),
    setting(
        "floor.interruption",
        "OFFHOOK_INTERRUPTION",
        "immediate",
        "immediate: the first sound of the caller cuts the assistant off; confirmed: only speech that lasts, or words that mean something (OpenAI)",
    ),
    setting(
        "floor.heard_by",
        "OFFHOOK_HEARD_BY",
        "provider",
        "Whose detector counts: provider, ourselves, either (whichever is first); with a provider that decides, ours only lowers the voice",
    ),
    setting("floor.confirm_ms", "OFFHOOK_CONFIRM_MS", "600", "Speech that is proof of an interruption, 100 to 3000"),
    setting(
        "floor.meanwhile",
        "OFFHOOK_MEANWHILE",
        "duck",
        "What the assistant does until it is proven: duck (12 dB quieter), pause (and go on from there)",
    ),
    setting(
        "floor.words_within_ms",
        "OFFHOOK_WORDS_WITHIN_MS",
        "1500",
        "How long words are waited for after a shorter sound, 200 to 5000",
    ),
    setting(
        "floor.back_channel",
        "OFFHOOK_BACK_CHANNEL",
        "",
        "Words that take no floor, with commas between, beside the built-in ones (\"mhm\", \"okay\", …)",
    ),
    setting(
        "floor.echo_guard",
        "OFFHOOK_ECHO_GUARD",
        "true",
        "A sound that is an echo of the assistant's own voice is no interruption; only where we decide or listen ourselves",
    ),
    setting(
        "sound.noise_suppression",
        "OFFHOOK_NOISE_SUPPRESSION",
        "false",
        "Takes noise out of what the assistant hears, 10.7 ms later; try it when callers are misunderstood",
    ),
    setting(
        "sound.gain_control",
        "OFFHOOK_GAIN_CONTROL",
        "false",
        "Brings quiet callers up and loud ones down before the assistant hears them",
    ),
    setting(
        "sound.ambience",
        "OFFHOOK_AMBIENCE",
        "",
        "An audio file (WAV, MP3, M4A, Ogg) that callers hear softly all the time; answers then begin up to 40 ms later",
    ),
    setting("sound.ambience_dbfs", "OFFHOOK_AMBIENCE_DBFS", "-45", "How loud that is, -70 to -25 dB below full scale"),
    setting("limits.max_call_duration", "MAX_CALL_DURATION", "600", "Longest call in seconds, 30 to 14400"),
    setting(
        "limits.end_warning_seconds",
        "OFFHOOK_END_WARNING_SECONDS",
        "30",
        "How long before the longest call ends the caller is told; 0: never",
    ),
    setting(
        "limits.answer_due_seconds",
        "OFFHOOK_ANSWER_DUE_SECONDS",
        "6",
        "An answer that has not begun by then is asked for again, then we say \"one moment\", then the session is replaced; 0: never",
    ),
    setting(
        "limits.idle_seconds",
        "OFFHOOK_IDLE_SECONDS",
        "15",
        "Silence of both sides after which the assistant asks whether the caller is there; 0: never",
    ),
    setting("limits.idle_prompts", "OFFHOOK_IDLE_PROMPTS", "2", "How often it asks before it says goodbye"),
    setting(
        "limits.key_gap_ms",
        "OFFHOOK_KEY_GAP_MS",
        "1200",
        "Keys that follow each other within this time are told to the assistant as one entry; # ends one at once",
    ),
    setting("limits.lead_ms", "OFFHOOK_LEAD_MS", "200", "Audio kept at Twilio ahead of the ear, 40 to 1000"),
    setting(
        "limits.audio_sample_rate",
        "AUDIO_SAMPLE_RATE",
        "24000",
        "Rate of PCM providers: 8000, 16000 or 24000; the provider's own word decides",
    ),
    setting("limits.audio_chunk_size", "AUDIO_CHUNK_SIZE", "160", "Bytes of a telephone frame; always 160, which is 20 ms"),
];

/// Sections with names of the operator's own: what they are for, and what a value looks like.
const NAMED: &[(&str, &str, &str)] = &[
    ("destinations", "Whom callers may be connected with", "reception = \"+40312345678\""),
    ("keys", "What a key does when it is pressed alone", "0 = \"transfer reception\", 9 = \"hang up\""),
    ("variables", "Values for the `{{variables}}` of an ElevenLabs agent", "company = \"Harbour Table\""),
];

/// When models end, by their providers' announcements: (name or beginning of one, last day).
const SHUTDOWNS: &[(&str, &str)] = &[
    ("gpt-4o-realtime-preview", "2026-05-07"),
    ("gpt-4o-mini-realtime-preview", "2026-05-07"),
    ("gpt-realtime-2025-08-28", "2027-01-20"),
    ("gpt-realtime-mini", "2027-01-20"),
    ("whisper-1", "2027-02-26"),
    ("gpt-4o-transcribe", "2027-02-26"),
    ("gpt-4o-mini-transcribe", "2027-02-26"),
];

/// What is known of a model's end; `gpt-realtime` alone is a name of its own.
fn shutdown(model: &str) -> Option<&'static str> {
    if model == "gpt-realtime" {
        return Some("2027-01-20");
    }
    SHUTDOWNS.iter().find(|it| model.starts_with(it.0)).map(|it| it.1)
}

/// Variables of replaced systems that mean nothing any more.
const OBSOLETE: &[&str] =
    &["ELEVENLABS_PHONE_NUMBER_ID", "THREECX_WEBHOOK_SECRET", "3CX_WEBHOOK_SECRET", "THREECX_TRUSTED_IPS", "3CX_TRUSTED_IPS"];

/// Everything `serve` needs.
#[derive(Debug)]
pub struct Config {
    pub listen: SocketAddr,
    pub places: Places,
    /// Days after which recordings are deleted.
    pub recording_days: Option<u32>,
    /// `None`: as many as this machine carries.
    pub calls_max: Option<usize>,
    /// Whose certificates providers may show, beside those of the public authorities.
    pub authorities: Vec<CertificateDer<'static>>,
    pub drain: Duration,
    /// What is logged; see the setting `server.log`.
    pub log: String,
    pub auth_tokens: Vec<SecretString>,
    pub skip_signatures: bool,
    /// Twilio's REST API, if there is an account.
    pub rest: Option<Rest>,
    /// The pause between two calls that are made.
    pub calls_apart: Duration,
    pub api: ApiSettings,
    pub settings: Settings,
    pub http_tools: Vec<HttpTool>,
    pub mcp_servers: Vec<McpServer>,
    /// To be told to the operator at start.
    pub warnings: Vec<String>,
}

/// One thing that is wrong, with what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, with where it came from.
    pub place: String,
    pub problem: String,
}

/// All that is wrong, so that it can be mended in one go.
#[derive(Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} problem{}:", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|it| writeln!(f, "  {}: {}", it.place, it.problem))
    }
}

impl std::error::Error for Problems {}

/// A value with where it was found.
#[derive(Clone)]
struct Found {
    value: String,
    place: String,
}

/// Reads `offhook.toml` (its text and name) and the environment; checks everything.
///
/// # Errors
/// [`Problems`] names every wrong key with its place, its value (secrets hidden), what was expected and what to do.
pub fn load(file: Option<(&str, &str)>, env: &BTreeMap<String, String>) -> std::result::Result<Config, Problems> {
    let mut reader = Source::read(file, env);
    let config = reader.config(env);
    if reader.problems.is_empty() {
        Ok(config.expect("no problem, so nothing is missing"))
    } else {
        Err(Problems(reader.problems))
    }
}

/// Where a server keeps its data.
#[derive(Debug)]
pub struct Places {
    pub data_dir: PathBuf,
    /// May hold a password.
    pub database_url: SecretString,
    /// As it was given, not checked.
    pub public_url: String,
    /// A folder, or `s3://BUCKET/PREFIX`; `None` leaves recordings where they were made.
    pub objects: Option<String>,
    /// Keys to seal with, the newest first; without any the data folder holds one.
    pub encryption_keys: Option<SecretString>,
}

/// Reads only where the data is: for commands that must work whatever else is wrong.
///
/// # Errors
/// [`Problems`] of these settings, and files that are not TOML.
pub fn places(file: Option<(&str, &str)>, env: &BTreeMap<String, String>) -> std::result::Result<Places, Problems> {
    let mut reader = Source::read(file, env);
    reader.problems.retain(|it| it.problem.contains("not TOML"));
    let places = reader.places();
    if reader.problems.is_empty() { Ok(places) } else { Err(Problems(reader.problems)) }
}

impl Source {
    fn read(file: Option<(&str, &str)>, env: &BTreeMap<String, String>) -> Self {
        let mut reader = Self {
            found: BTreeMap::new(),
            numbers: Vec::new(),
            tools: Vec::new(),
            mcp: Vec::new(),
            named: BTreeMap::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        if let Some((name, text)) = file {
            reader.read_file(name, text);
        }
        reader.read_env(env);
        reader
    }

    fn places(&mut self) -> Places {
        let data_dir = PathBuf::from(self.text("server.data_dir"));
        let url = Some(self.text("server.database_url")).filter(|it| !it.is_empty());
        let url = url.unwrap_or_else(|| format!("sqlite:{}", data_dir.join("offhook.db").display()));
        if !["sqlite:", "postgres://", "postgresql://"].iter().any(|it| url.starts_with(it)) {
            let place = self.find("server.database_url").place;
            self.problem(place, "expected sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE");
        }
        let objects = match self.text("server.objects") {
            it if it.is_empty() => Some(data_dir.join("objects").display().to_string()),
            it if it == "none" => None,
            it => Some(it),
        };
        let encryption_keys = Some(self.text("server.encryption_keys")).filter(|it| !it.is_empty()).map(SecretString::from);
        let public_url = self.text("server.public_url").trim_end_matches('/').to_owned();
        Places { data_dir, database_url: url.into(), public_url, objects, encryption_keys }
    }
}

/// Longest phrase of the operator's own.
const PHRASE_MAX: Duration = Duration::from_secs(120);

/// Reads a phrase: the first channel of a file, as μ-law at 8 kHz.
fn phrase(file: &Path) -> Result<Arc<[u8]>> {
    let mut reader =
        Reader::open(File::open(file).context("it cannot be opened")?, Limits { duration: PHRASE_MAX, ..Limits::UPLOAD })?;
    let spec = reader.spec();
    let begun = Instant::now();
    let samples = reader.read_all_while(|_| begun.elapsed() < BED_TIME_MAX)?;
    let samples: Vec<i16> = samples.into_iter().step_by(spec.channels.into()).collect();
    let telephone = media::resample::convert(&samples, spec.rate, 8000)?;
    Ok(telephone.into_iter().map(media::g711::ulaw::encode).collect())
}

/// Longest time to decode the background sound.
const BED_TIME_MAX: Duration = Duration::from_secs(20);

/// Reads the background sound of calls: the first channel of a file of at most 15 minutes.
fn bed(file: &Path, dbfs: f32) -> Result<Bed> {
    let mut reader = Reader::open(File::open(file).context("it cannot be opened")?, Limits::UPLOAD)?;
    let spec = reader.spec();
    let begun = Instant::now();
    let samples = reader.read_all_while(|_| begun.elapsed() < BED_TIME_MAX)?;
    let samples: Vec<i16> = samples.into_iter().step_by(spec.channels.into()).collect();
    Ok(Bed::new(&samples, spec.rate, dbfs)?)
}

/// Texts by key, and tables of texts by key.
type Entry = BTreeMap<String, EntryValue>;

#[derive(Clone, Debug)]
enum EntryValue {
    Text(String),
    Table(BTreeMap<String, String>),
}

/// Keys of `[[tools]]` and `[[mcp]]` entries.
const TOOL_KEYS: [&str; 9] = ["name", "description", "tenant", "method", "url", "headers", "parameters", "timeout_ms", "retries"];
const MCP_KEYS: [&str; 5] = ["name", "tenant", "url", "headers", "timeout_ms"];

struct Source {
    found: BTreeMap<&'static str, Found>,
    numbers: Vec<(String, BTreeMap<String, String>)>,
    /// Entries of `[[tools]]` and `[[mcp]]`, with their places.
    tools: Vec<(String, Entry)>,
    mcp: Vec<(String, Entry)>,
    /// By section, then by the operator's own name.
    named: BTreeMap<&'static str, BTreeMap<String, Found>>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

/// Keys of a `[[numbers]]` entry.
const NUMBER_KEYS: [&str; 6] = ["number", "tenant", "provider", "language", "instructions", "agent_id"];

impl Source {
    fn problem(&mut self, place: impl Into<String>, problem: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), problem: problem.into() });
    }

    fn read_file(&mut self, name: &str, text: &str) {
        if !name.ends_with(".yaml") && !name.ends_with(".yml") {
            return self.read_toml(name, text);
        }
        // The same settings, written otherwise; lines are then those of nobody's file, and are not told.
        let read = yaml_serde::from_str::<toml::Table>(text).map_err(|error| error.to_string());
        match read.and_then(|it| toml::to_string(&it).map_err(|error| error.to_string())) {
            Ok(text) => self.read_toml(name, &text),
            Err(error) => self.problem(name, format!("this is not YAML, or not settings: {error}")),
        }
    }

    fn read_toml(&mut self, name: &str, text: &str) {
        let lines = name.ends_with(".toml");
        let line = |at: Range<usize>| match lines {
            true => format!("{name}:{}", text[..at.start.min(text.len())].matches('\n').count() + 1),
            false => name.to_owned(),
        };
        let table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let place = error.span().map_or_else(|| name.to_owned(), line);
                return self.problem(place, format!("this is not TOML: {}", error.message()));
            }
        };
        for (section, value) in table {
            let section_name = section.get_ref().to_string();
            let named = NAMED.iter().map(|it| it.0).find(|it| *it == section_name);
            match value.into_inner() {
                DeValue::Table(keys) if named.is_some() => {
                    for (key, value) in keys {
                        let name = key.get_ref().to_string();
                        let place = format!("{} {section_name}.{name}", line(key.span()));
                        match scalar(value.get_ref()) {
                            Some(value) => {
                                let entries = self.named.entry(named.unwrap_or_default()).or_default();
                                entries.insert(name, Found { value, place });
                            }
                            None => self.problem(place, "expected a text, a number, true or false"),
                        }
                    }
                }
                DeValue::Table(keys) => {
                    for (key, value) in keys {
                        let path = format!("{section_name}.{}", key.get_ref());
                        let place = format!("{} {path}", line(key.span()));
                        match (SETTINGS.iter().find(|it| it.key == path), scalar(value.get_ref())) {
                            (Some(known), Some(value)) => drop(self.found.insert(known.key, Found { value, place })),
                            (Some(_), None) => self.problem(place, "expected a text, a number, true or false"),
                            (None, _) => self.problem(place, unknown(&path)),
                        }
                    }
                }
                DeValue::Array(entries) if matches!(section_name.as_str(), "tools" | "mcp") => {
                    let tools = section_name == "tools";
                    let keys: &[&str] = if tools { &TOOL_KEYS } else { &MCP_KEYS };
                    for entry in entries {
                        let place = format!("{} {section_name}", line(entry.span()));
                        let Some(entry) = self.read_entry(&place, entry.into_inner(), keys) else { continue };
                        if tools { &mut self.tools } else { &mut self.mcp }.push((place, entry));
                    }
                }
                DeValue::Array(entries) if section_name == "numbers" => {
                    for entry in entries {
                        let place = format!("{} numbers", line(entry.span()));
                        let DeValue::Table(keys) = entry.into_inner() else {
                            self.problem(place, "expected [[numbers]] with keys below it");
                            continue;
                        };
                        let mut found = BTreeMap::new();
                        for (key, value) in keys {
                            let name = key.get_ref().to_string();
                            match scalar(value.get_ref()) {
                                Some(value) if NUMBER_KEYS.contains(&name.as_str()) => drop(found.insert(name, value)),
                                _ => {
                                    let expected = format!("expected one of {}", NUMBER_KEYS.join(", "));
                                    self.problem(format!("{place}.{name}"), expected);
                                }
                            }
                        }
                        self.numbers.push((place, found));
                    }
                }
                _ => self.problem(format!("{} {section_name}", line(section.span())), unknown(&section_name)),
            }
        }
    }

    fn read_entry(&mut self, place: &str, value: DeValue<'_>, known: &[&str]) -> Option<Entry> {
        let DeValue::Table(keys) = value else {
            self.problem(place, "expected keys below it");
            return None;
        };
        let mut entry = Entry::new();
        for (key, value) in keys {
            let name = key.get_ref().to_string();
            let value = match value.get_ref() {
                DeValue::Table(inner) => {
                    let texts = inner.iter().map(|(name, value)| Some((name.get_ref().to_string(), scalar(value.get_ref())?)));
                    texts.collect::<Option<_>>().map(EntryValue::Table)
                }
                other => scalar(other).map(EntryValue::Text),
            };
            match value.filter(|_| known.contains(&name.as_str())) {
                Some(value) => drop(entry.insert(name, value)),
                None => self.problem(format!("{place}.{name}"), format!("expected one of {}", known.join(", "))),
            }
        }
        Some(entry)
    }

    fn read_env(&mut self, env: &BTreeMap<String, String>) {
        let set = |name: &str| env.get(name).filter(|it| !it.is_empty());
        for setting in SETTINGS {
            let mut names: Vec<&str> =
                std::iter::once(setting.env).chain(setting.aliases.iter().copied()).filter(|it| set(it).is_some()).collect();
            let Some(first) = names.first().copied() else { continue };
            let value = env[first].clone();
            names.retain(|it| env[*it].trim_end_matches('/') != value.trim_end_matches('/'));
            if let Some(other) = names.first() {
                self.problem(
                    format!("{first} and {other} (environment)"),
                    "these are two names of one setting with two values: keep one",
                );
            }
            self.found.insert(setting.key, Found { value, place: format!("{first} (environment)") });
        }
        if let Some(inbound) = set("TWILIO_WEBHOOK_URL").and_then(|it| Url::parse(it).ok())
            && !self.found.contains_key("server.public_url")
        {
            // The full address of the inbound webhook: the base is what is before our path.
            let base = inbound
                .as_str()
                .split("/twilio/")
                .next()
                .and_then(|it| it.split("/webhooks/").next())
                .unwrap_or_default()
                .to_owned();
            self.found.insert("server.public_url", Found { value: base, place: "TWILIO_WEBHOOK_URL (environment)".into() });
        }
        for name in OBSOLETE.iter().filter(|it| set(it).is_some()) {
            self.warnings.push(format!("{name} is obsolete and not read: remove it"));
        }
    }

    fn find(&self, key: &'static str) -> Found {
        let setting = SETTINGS.iter().find(|it| it.key == key).expect("only settings of the table are asked for");
        self.found.get(key).cloned().unwrap_or_else(|| Found { value: setting.default.into(), place: format!("{key} (default)") })
    }

    fn text(&self, key: &'static str) -> String {
        self.find(key).value
    }

    /// Reads a value; a wrong one becomes a problem that shows it (never a secret).
    fn parse<T>(&mut self, key: &'static str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let found = self.find(key);
        let parsed = parse(found.value.trim());
        if parsed.is_none() {
            let hidden = SETTINGS.iter().any(|it| it.key == key && it.secret);
            let value = if hidden { "(hidden)".into() } else { format!("`{}`", found.value) };
            self.problem(found.place, format!("{value} is not usable: expected {expected}"));
        }
        parsed
    }

    fn number(&mut self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.parse(key, &expected, |it| it.parse().ok().filter(|it| range.contains(it)))
    }

    fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.parse(key, "true or false", |it| match it.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => Some(true),
            "false" | "0" | "no" | "" => Some(false),
            _ => None,
        })
    }

    fn url(&mut self, key: &'static str, schemes: &'static [&'static str]) -> Option<Url> {
        let expected = format!("an address that begins with {}://", schemes.join(":// or "));
        self.parse(key, &expected, |it| {
            Url::parse(it).ok().filter(|it| schemes.contains(&it.scheme()) && it.host_str().is_some())
        })
    }

    fn required(&mut self, key: &'static str, fix: &str) -> Option<String> {
        let setting = SETTINGS.iter().find(|it| it.key == key).expect("only settings of the table are asked for");
        let value = self.text(key);
        if value.trim().is_empty() {
            self.problem(format!("{} (or {key} in offhook.toml)", setting.env), format!("it is not set: {fix}"));
            return None;
        }
        Some(value)
    }

    /// Where media sockets of this very process come; where there is only one, that is the public address.
    fn node_url(&mut self, public_url: Option<&PublicUrl>) -> Option<PublicUrl> {
        let found = self.find("server.node_url");
        if found.value.is_empty() {
            return public_url.cloned();
        }
        match PublicUrl::parse(&found.value) {
            Ok(url)
                if public_url.is_none_or(|it| it.path_prefix() == url.path_prefix() && (!it.is_https() || url.is_https())) =>
            {
                Some(url)
            }
            Ok(_) => {
                self.problem(found.place, "expected https:// and the same path as that of server.public_url");
                None
            }
            Err(expected) => {
                self.problem(found.place, format!("`{}` is not usable: {expected}", found.value));
                None
            }
        }
    }

    fn authorities(&mut self) -> Option<Vec<CertificateDer<'static>>> {
        let found = self.find("server.trusted_authorities");
        if found.value.is_empty() {
            return Some(Vec::new());
        }
        let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&found.value).and_then(Iterator::collect);
        match read {
            Ok(them) if !them.is_empty() => Some(them),
            read => {
                let problem = read.err().map_or_else(|| "it holds no certificate".to_owned(), |it| it.to_string());
                self.problem(found.place, format!("`{}`: {problem}: expected a PEM file with certificates", found.value));
                None
            }
        }
    }

    fn config(&mut self, env: &BTreeMap<String, String>) -> Option<Config> {
        let listen: Option<SocketAddr> = self.parse("server.listen", "address:port, such as 0.0.0.0:8000", |it| it.parse().ok());
        let public_url = self.required(
            "server.public_url",
            "give the https:// address under which Twilio reaches this server (with a tunnel: its address)",
        );
        let public_url = public_url.and_then(|_| {
            let found = self.find("server.public_url");
            PublicUrl::parse(&found.value)
                .map_err(|expected| self.problem(found.place, format!("`{}` is not usable: {expected}", found.value)))
                .ok()
        });
        let node_url = self.node_url(public_url.as_ref());
        let skip_signatures = self.flag("twilio.skip_signature_validation");
        let local = listen.is_some_and(|it| it.ip().is_loopback()) && public_url.as_ref().is_some_and(PublicUrl::is_local);
        if skip_signatures == Some(true) && !local && listen.is_some() && public_url.is_some() {
            let place = self.find("twilio.skip_signature_validation").place;
            self.problem(place, "signatures may only be skipped while listening on loopback with a public address on loopback that is not https: set it to false");
        }
        if let Some(url) = &public_url
            && !url.is_https()
            && !local
        {
            let place = self.find("server.public_url").place;
            self.problem(place, "expected https://: Twilio sends tokens and voices there, and opens media streams only over TLS");
        }
        let mut auth_tokens = Vec::new();
        if skip_signatures != Some(true) {
            auth_tokens.extend(self.required(
                "twilio.auth_token",
                "copy the auth token from the Twilio console; without it no webhook can be believed",
            ));
            auth_tokens.extend(Some(self.text("twilio.auth_token_secondary")).filter(|it| !it.is_empty()));
        }
        let rest = self.rest(auth_tokens.first());
        let places = self.places();
        let data_dir = places.data_dir.clone();
        let recording_days = self.optional_number("server.recording_days", 1..=36_500);
        let calls_max = match self.text("server.max_calls").as_str() {
            "auto" => Some(None),
            _ => self.number("server.max_calls", 1..=100_000).map(Some),
        };
        let authorities = self.authorities();
        let drain = self.number("server.drain_seconds", 0..=86_400);
        let time_zone = self.parse("server.time_zone", "a name such as Europe/Bucharest", |it| jiff::tz::TimeZone::get(it).ok());
        let duration = self.number("limits.max_call_duration", 30..=14_400);
        let warning = self.number("limits.end_warning_seconds", 0..=600);
        let answer_due = self.number("limits.answer_due_seconds", 0..=60);
        let idle = self.number("limits.idle_seconds", 0..=3600);
        let idle_prompts = self.number("limits.idle_prompts", 0..=10);
        let key_gap = self.number("limits.key_gap_ms", 0..=10_000);
        let seconds = |it: u64| (it > 0).then(|| Duration::from_secs(it));
        let lead = self.number("limits.lead_ms", 40..=1000);
        let interruption = self.interruption();
        let protect_greeting = self.flag("assistant.protect_greeting");
        let prepare = self.flag("assistant.prepare");
        let notice = self.phrase("assistant.notice");
        let hold_sound = self.phrase("assistant.hold_sound");
        let destinations = self.destinations();
        let key_actions = self.keys(&destinations);
        let last_resort = Some(self.find("assistant.last_resort")).filter(|it| !it.value.is_empty());
        if let Some(it) = last_resort.as_ref().filter(|it| !destinations.contains_key(&it.value)) {
            self.problem(it.place.clone(), format!("`{}` is not under [destinations]: add it there", it.value));
        }
        self.parse("limits.audio_sample_rate", "8000, 16000 or 24000", |it| {
            matches!(it, "8000" | "16000" | "24000").then_some(())
        });
        self.parse("limits.audio_chunk_size", "160: a telephone frame has 20 ms", |it| (it == "160").then_some(()));
        let recording = self.flag("assistant.recording");
        let recording_format = self.one_of("assistant.recording_format", &["wav", "opus"]);
        let sound = self.sound();
        let http_tools = self.http_tools(env);
        let mcp_servers = self.mcp_servers(env);
        let pace = self
            .parse("twilio.calls_per_second", "0.1 to 100", |it| it.parse::<f64>().ok().filter(|it| (0.1..=100.0).contains(it)));
        let outbound = self.outbound(time_zone.clone());
        let templates = self.templates().map(|it| Templates { outbound, ..it });
        let (routes, fallback) = self.routes(templates.as_ref());
        let api = self.api();
        Some(Config {
            listen: listen?,
            places,
            recording_days: recording_days?.map(|it| it as u32),
            calls_max: calls_max?.map(|it| it as usize),
            authorities: authorities?,
            drain: Duration::from_secs(drain?),
            log: self.text("server.log"),
            auth_tokens: auth_tokens.into_iter().map(SecretString::from).collect(),
            skip_signatures: skip_signatures?,
            rest,
            calls_apart: Duration::from_secs_f64(1.0 / pace?),
            api: api?,
            settings: Settings {
                public_url: public_url?,
                node_url: node_url?,
                node: self.text("server.node"),
                routes,
                fallback,
                templates: templates?,
                conversation: CallConfig {
                    preroll_frames_max: bridge::limits::PREROLL_FRAMES,
                    interruption: interruption?,
                    protect_greeting: protect_greeting?,
                    notice: notice?,
                    hold_sound: hold_sound?,
                    key_actions,
                    duration_max: Duration::from_secs(duration?),
                    warn_before: seconds(warning?),
                    answer_due: seconds(answer_due?),
                    idle_after: seconds(idle?),
                    idle_prompts_max: idle_prompts? as u32,
                    key_gap: Duration::from_millis(key_gap?),
                    lead: Duration::from_millis(lead?),
                    ..CallConfig::new(Vec::new())
                },
                back_channel: list(&self.text("floor.back_channel")),
                prepare: prepare?,
                destinations,
                last_resort: last_resort.map(|it| it.value),
                sound: sound?,
                recordings: recording?.then(|| data_dir.join("recordings")),
                recording_format: recording_format?,
                time_zone: time_zone?,
            },
            http_tools,
            mcp_servers,
            warnings: std::mem::take(&mut self.warnings),
        })
    }

    /// What calls that are made have in common.
    fn outbound(&mut self, time_zone: Option<jiff::tz::TimeZone>) -> OutboundDefaults {
        let provider = self.find("elevenlabs.phone_number");
        if !provider.value.is_empty() && !is_e164(&provider.value) {
            self.problem(provider.place, format!("`{}` is not in E.164: expected + and up to 15 digits", provider.value));
        }
        let text = |it: String| Some(it).filter(|it| !it.is_empty());
        OutboundDefaults {
            phone_number: text(self.text("twilio.phone_number")),
            provider_number: text(provider.value),
            time_zone: time_zone.unwrap_or(jiff::tz::TimeZone::UTC),
        }
    }

    /// Who may ask the interface for programs and people, from where.
    fn api(&mut self) -> Option<ApiSettings> {
        let secret = self.find("server.jwt_secret");
        let wrong = if secret.value.is_empty() { None } else { control::unsafe_secret(&secret.value) };
        if let Some(expected) = wrong {
            self.problem(secret.place, expected);
            return None;
        }
        let origins = self.find("server.cors_origins");
        let mut cors_origins = Vec::new();
        for origin in list(&origins.value) {
            let url = url::Url::parse(&origin).ok().filter(|it| matches!(it.scheme(), "http" | "https"));
            match url.map(|it| it.origin().ascii_serialization()) {
                // A browser that sends credentials wants to be named.
                Some(it) if it == origin.trim_end_matches('/') => cors_origins.push(it),
                _ => self.problem(
                    origins.place.clone(),
                    format!("`{origin}`: expected origins such as https://panel.example.com, with commas between; `*` would let every page in with its visitor's credentials"),
                ),
            }
        }
        let jwt_secret = Some(secret.value).filter(|it| !it.is_empty()).map(SecretString::from);
        let per_second = self.number("server.api_per_second", 1..=10_000)? as u32;
        let post_call_secrets = list(&self.text("elevenlabs.webhook_secret")).into_iter().map(SecretString::from).collect();
        Some(ApiSettings { jwt_secret, cors_origins, post_call_secrets, per_second })
    }

    /// Twilio's REST API: nothing of an ordinary call needs it.
    fn rest(&mut self, auth_token: Option<&String>) -> Option<Rest> {
        let account = self.find("twilio.account_sid");
        let base = self.url("twilio.api_base_url", &["https", "http"]);
        let (key, secret) = (self.find("twilio.api_key"), self.text("twilio.api_key_secret"));
        if account.value.is_empty() {
            return None;
        }
        let key = match (key.value.is_empty(), secret.is_empty()) {
            (true, true) => Key::AuthToken(auth_token?.clone().into()),
            (false, false) => Key::ApiKey { sid: key.value, secret: secret.into() },
            _ => {
                self.problem(key.place, "twilio.api_key and twilio.api_key_secret belong together: set both, or none");
                return None;
            }
        };
        let made = Rest::new(Account { sid: account.value.clone(), key }, base?.as_str());
        made.map_err(|error| self.problem(account.place, format!("`{}` is not usable: {error}", account.value))).ok()
    }

    /// The text of an entry's key.
    fn entry_text(entry: &Entry, key: &str) -> Option<String> {
        match entry.get(key) {
            Some(EntryValue::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    fn entry_number(&mut self, place: &str, entry: &Entry, key: &str, usual: u64, range: std::ops::RangeInclusive<u64>) -> u64 {
        let Some(text) = Self::entry_text(entry, key) else { return usual };
        text.parse().ok().filter(|it| range.contains(it)).unwrap_or_else(|| {
            let expected = format!("`{text}`: expected a whole number from {} to {}", range.start(), range.end());
            self.problem(format!("{place}.{key}"), expected);
            usual
        })
    }

    /// Header values; `${NAME}` stands for a variable of the environment, so that secrets stay out of the file.
    fn headers(&mut self, place: &str, entry: &Entry, env: &BTreeMap<String, String>) -> Vec<(String, SecretString)> {
        let Some(EntryValue::Table(headers)) = entry.get("headers") else { return Vec::new() };
        let mut all = Vec::new();
        for (name, value) in headers {
            match filled(value, env) {
                Ok(value) => all.push((name.clone(), value.into())),
                Err(problem) => self.problem(format!("{place}.headers.{name}"), problem),
            }
        }
        all
    }

    fn http_tools(&mut self, env: &BTreeMap<String, String>) -> Vec<HttpTool> {
        let mut tools = Vec::new();
        for (place, entry) in std::mem::take(&mut self.tools) {
            let text = |key| Self::entry_text(&entry, key);
            let (Some(name), Some(description), Some(url)) = (text("name"), text("description"), text("url")) else {
                self.problem(place, "a tool needs `name`, `description` (when to call it) and `url`");
                continue;
            };
            let method_text = text("method").unwrap_or_else(|| "GET".into());
            let Some(method) = Method::parse(&method_text) else {
                self.problem(format!("{place}.method"), format!("`{method_text}`: expected GET, POST, PUT, PATCH or DELETE"));
                continue;
            };
            let parameters = text("parameters").unwrap_or_else(|| r#"{"type":"object","properties":{}}"#.into());
            let schema = match Schema::new(&parameters) {
                Ok(schema) => schema,
                Err(error) => {
                    self.problem(format!("{place}.parameters"), error.to_string());
                    continue;
                }
            };
            let tool = HttpTool {
                name,
                description,
                tenant: text("tenant"),
                method,
                url,
                headers: self.headers(&place, &entry, env),
                schema,
                timeout: Duration::from_millis(self.entry_number(&place, &entry, "timeout_ms", 5000, 100..=15_000)),
                retries: self.entry_number(&place, &entry, "retries", 1, 0..=3) as usize,
            };
            match tool.check() {
                Ok(()) => tools.push(tool),
                Err(error) => self.problem(place, error.to_string()),
            }
        }
        tools
    }

    fn mcp_servers(&mut self, env: &BTreeMap<String, String>) -> Vec<McpServer> {
        let mut servers = Vec::new();
        for (place, entry) in std::mem::take(&mut self.mcp) {
            let text = |key| Self::entry_text(&entry, key);
            let (Some(name), Some(url)) = (text("name"), text("url")) else {
                self.problem(place, "a tool server needs `name` and `url`");
                continue;
            };
            let server = McpServer {
                name,
                tenant: text("tenant"),
                url,
                headers: self.headers(&place, &entry, env),
                timeout: Duration::from_millis(self.entry_number(&place, &entry, "timeout_ms", 10_000, 100..=15_000)),
            };
            match server.check() {
                Ok(()) => servers.push(server),
                Err(error) => self.problem(place, error.to_string()),
            }
        }
        servers
    }

    fn interruption(&mut self) -> Option<Interruption> {
        let speech = self.number("floor.confirm_ms", 100..=3000);
        let words_within = self.number("floor.words_within_ms", 200..=5000);
        let meanwhile = self.parse("floor.meanwhile", "duck or pause", |it| match it {
            "duck" => Some(Meanwhile::Duck),
            "pause" => Some(Meanwhile::Pause),
            _ => None,
        });
        let heard_by = self.parse("floor.heard_by", "provider, ourselves or either", |it| match it {
            "provider" => Some(HeardBy::Provider),
            "ourselves" => Some(HeardBy::Ourselves),
            "either" => Some(HeardBy::Either),
            _ => None,
        });
        let confirmed = self.confirmed();
        let echo_guard = self.flag("floor.echo_guard");
        let (heard_by, confirmed) = (heard_by?, confirmed?);
        let confirm = Confirm {
            speech: Duration::from_millis(speech?),
            meanwhile: meanwhile?,
            words_within: Duration::from_millis(words_within?),
            // The language's list is added per call.
            back_channel: call::BackChannel::default(),
        };
        // Where the provider's sign is final there is nothing to guard.
        let weighed = confirmed || heard_by != HeardBy::Provider;
        Some(Interruption { heard_by, confirm: confirmed.then_some(confirm), echo_guard: echo_guard? && weighed })
    }

    /// Whether interruptions must be proven.
    fn confirmed(&mut self) -> Option<bool> {
        self.parse("floor.interruption", "immediate or confirmed", |it| match it {
            "immediate" => Some(false),
            "confirmed" => Some(true),
            _ => None,
        })
    }

    /// An audio file of the operator's; `Some(None)` when none is wanted.
    fn phrase(&mut self, key: &'static str) -> Option<Option<Arc<[u8]>>> {
        let file = self.find(key);
        if file.value.is_empty() {
            return Some(None);
        }
        let read = phrase(Path::new(&file.value));
        read.map_err(|error| self.problem(file.place, format!("`{}` is not usable: {error:#}", file.value))).ok().map(Some)
    }

    fn destinations(&mut self) -> BTreeMap<String, String> {
        let entries = self.named.remove("destinations").unwrap_or_default();
        for it in entries.values().filter(|it| !is_e164(&it.value)) {
            self.problem(it.place.clone(), "the number is not in E.164: expected + and up to 15 digits, such as +40312345678");
        }
        entries.into_iter().map(|(name, it)| (name, it.value)).collect()
    }

    fn keys(&mut self, destinations: &BTreeMap<String, String>) -> Vec<(char, KeyAction)> {
        let mut actions = Vec::new();
        for (key, it) in self.named.remove("keys").unwrap_or_default() {
            let action = match it.value.split_whitespace().collect::<Vec<_>>()[..] {
                ["transfer", to] if destinations.contains_key(to) => Some(KeyAction::Transfer(to.into())),
                ["hang", "up"] => Some(KeyAction::HangUp),
                _ => None,
            };
            match (key.chars().next().filter(|it| key.len() == 1 && "0123456789*#".contains(*it)), action) {
                (Some(key), Some(action)) => actions.push((key, action)),
                (None, _) => self.problem(it.place, "this is no key of a telephone: expected one of 0 to 9, * and #"),
                (_, None) => self.problem(it.place, "expected `transfer NAME` with a name under [destinations], or `hang up`"),
            }
        }
        actions
    }

    /// A value that may be left empty.
    fn optional<T>(&mut self, key: &'static str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
        self.parse(key, expected, |it| if it.is_empty() { Some(None) } else { parse(it).map(Some) })
    }

    fn optional_number(&mut self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<Option<u64>> {
        let expected = format!("a whole number from {} to {}, or nothing", range.start(), range.end());
        self.optional(key, &expected, |it| it.parse().ok().filter(|it| range.contains(it)))
    }

    fn optional_share(&mut self, key: &'static str, range: std::ops::RangeInclusive<f64>) -> Option<Option<f64>> {
        let expected = format!("a number from {} to {}, or nothing", range.start(), range.end());
        self.optional(key, &expected, |it| it.parse().ok().filter(|it| range.contains(it)))
    }

    fn one_of(&mut self, key: &'static str, words: &'static [&'static str]) -> Option<String> {
        self.parse(key, &format!("one of {}", words.join(", ")), |it| words.contains(&it).then(|| it.to_owned()))
    }

    fn warn_of_shutdown(&mut self, key: &str, model: &str) {
        if let Some(day) = shutdown(model) {
            let warning = format!("{key}: the model {model} ends on {day}; choose its successor in time");
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    fn sound(&mut self) -> Option<SoundPlan> {
        let noise_suppression = self.flag("sound.noise_suppression");
        let gain_control = self.flag("sound.gain_control");
        let dbfs = self.parse("sound.ambience_dbfs", "a number from -70 to -25", |it| {
            it.parse::<f32>().ok().filter(|it| (-70.0..=-25.0).contains(it))
        });
        let file = self.find("sound.ambience");
        let ambience = if file.value.is_empty() {
            None
        } else {
            let bed = bed(Path::new(&file.value), dbfs?);
            let told = bed.map_err(|error| self.problem(file.place, format!("`{}` is not usable: {error:#}", file.value)));
            Some(Arc::new(told.ok()?))
        };
        Some(SoundPlan { noise_suppression: noise_suppression?, gain_control: gain_control?, ambience })
    }

    /// Providers that answer, and those that there is a key for: tenants may want them.
    fn templates(&mut self) -> Option<Templates> {
        let language = self.parse("assistant.language", "en or ro", |it| it.parse::<Language>().ok());
        let providers = list(&self.text("assistant.provider"));
        let mut wanted: Vec<String> = self.numbers.iter().filter_map(|it| it.1.get("provider")).flat_map(|it| list(it)).collect();
        let own = self.numbers.is_empty() || !self.text("twilio.phone_number").is_empty();
        if own || self.numbers.iter().any(|it| !it.1.contains_key("provider")) {
            wanted.extend(providers.iter().cloned());
        }
        let keys = [("openai", "openai.api_key"), ("elevenlabs", "elevenlabs.api_key"), ("openai-live", "openai.api_key")];
        wanted.extend(keys.iter().filter(|it| !self.text(it.1).is_empty()).map(|it| it.0.to_owned()));
        wanted.sort();
        wanted.dedup();
        let mut plans = BTreeMap::new();
        let problems = self.problems.len();
        for provider in wanted {
            let plan = match provider.as_str() {
                "openai" => self.openai(language?),
                "elevenlabs" => self.elevenlabs(language?),
                "openai-live" => self.live(),
                // Told where it is named.
                _ => continue,
            };
            plans.extend(plan.map(|it| (provider, it)));
        }
        (self.problems.len() == problems).then_some(Templates {
            plans,
            providers,
            language: language?,
            outbound: OutboundDefaults::default(),
        })
    }

    fn routes(&mut self, templates: Option<&Templates>) -> (BTreeMap<String, Route>, Option<Route>) {
        let mut routes = BTreeMap::new();
        for (place, entry) in std::mem::take(&mut self.numbers) {
            let Some(number) = entry.get("number").filter(|it| is_e164(it)) else {
                self.problem(place, "`number` is missing or not in E.164: expected + and up to 15 digits, such as +40312345678");
                continue;
            };
            if let Some(route) = self.route(&place, &entry, templates) {
                routes.insert(number.clone(), route);
            }
        }
        let own = self.find("twilio.phone_number");
        if routes.is_empty() || !own.value.is_empty() {
            let Some(route) = self.route("[assistant]", &BTreeMap::new(), templates) else { return (routes, None) };
            if own.value.is_empty() {
                return (routes, Some(route));
            }
            if is_e164(&own.value) {
                routes.insert(own.value, route);
            } else {
                self.problem(own.place, format!("`{}` is not in E.164: expected + and up to 15 digits", own.value));
            }
        }
        (routes, None)
    }

    fn route(&mut self, place: &str, entry: &BTreeMap<String, String>, templates: Option<&Templates>) -> Option<Route> {
        let assistant = Assistant {
            providers: entry.get("provider").map(|it| list(it)).unwrap_or_default(),
            language: entry.get("language").cloned(),
            instructions: entry.get("instructions").cloned(),
            agent_id: entry.get("agent_id").cloned(),
            ..Assistant::default()
        };
        let tenant = entry.get("tenant").map_or("default", String::as_str);
        let route = templates?.route(tenant, &self.text("assistant.name"), &assistant);
        route.map_err(|problems| problems.into_iter().for_each(|it| self.problem(place, it))).ok()
    }

    fn openai_key(&mut self) -> Option<SecretString> {
        let fix = "give the key of the OpenAI project that answers, or choose OFFHOOK_PROVIDER=elevenlabs";
        self.required("openai.api_key", fix).map(SecretString::from)
    }

    fn turns(&mut self) -> Option<Turns> {
        let preset = self.one_of("openai.turns", &["quick", "balanced", "patient", "noisy", "semantic"]);
        let threshold = self.optional_share("openai.vad_threshold", 0.0..=1.0);
        let prefix = self.optional_number("openai.vad_prefix_ms", 0..=5000);
        let silence = self.optional_number("openai.vad_silence_ms", 100..=5000);
        let eagerness = self.one_of("openai.eagerness", &["low", "medium", "high", "auto"]);
        let (usual_threshold, usual_silence) = match preset?.as_str() {
            "quick" => (0.5, 300),
            "patient" => (0.5, 900),
            "noisy" => (0.7, 600),
            "semantic" => return Some(Turns::Semantic { eagerness: eagerness? }),
            _ => (0.5, 500),
        };
        Some(Turns::Server {
            threshold: threshold?.unwrap_or(usual_threshold),
            prefix: Duration::from_millis(prefix?.unwrap_or(300)),
            silence: Duration::from_millis(silence?.unwrap_or(usual_silence)),
        })
    }

    fn openai(&mut self, language: Language) -> Option<AssistantPlan> {
        let api_key = self.openai_key();
        let base = self.url("openai.base_url", &["https", "http"]);
        let url = if self.text("openai.realtime_url").is_empty() {
            base.and_then(|base| {
                let text = format!("ws{}/realtime", base.as_str().trim_end_matches('/').strip_prefix("http")?);
                Url::parse(&text).ok()
            })
        } else {
            self.url("openai.realtime_url", &["wss", "ws"])
        };
        let turns = self.turns();
        // Where interruptions are weighed here, the service must not cancel its answers by itself.
        let decides = self.confirmed().map(|it| !it && self.text("floor.heard_by") == "provider");
        let noise_reduction = self.optional("openai.noise_reduction", "near_field, far_field or nothing", |it| {
            matches!(it, "near_field" | "far_field").then(|| it.to_owned())
        });
        let effort = self.optional("openai.reasoning_effort", "minimal, low, medium, high, xhigh or nothing", |it| {
            matches!(it, "minimal" | "low" | "medium" | "high" | "xhigh").then(|| it.to_owned())
        });
        let parallel = self.optional("openai.parallel_tool_calls", "true, false or nothing", |it| it.parse::<bool>().ok());
        let speed = self.optional_share("openai.speed", 0.25..=1.5);
        let retention_ratio = self.optional_share("openai.retention_ratio", 0.0..=1.0);
        let session_tokens = self.optional_number("openai.session_tokens", 1000..=1_000_000);
        let max_output_tokens = self.optional_number("openai.max_output_tokens", 1..=4096);
        let tool_choice = self.one_of("openai.tool_choice", &["auto", "none", "required"]);
        let tracing = self.flag("openai.tracing");
        let model = self.text("openai.model");
        self.warn_of_shutdown("openai.model", &model);
        let transcription_model = self.text("openai.transcription_model");
        self.warn_of_shutdown("openai.transcription_model", &transcription_model);
        let transcription = TranscriptionPlan {
            model: transcription_model,
            prompt: Some(self.text("openai.transcription_prompt")).filter(|it| !it.is_empty()),
            keywords: list(&self.text("openai.transcription_keywords")),
        };
        Some(AssistantPlan::OpenAi(Arc::new(OpenAiPlan {
            url: url?,
            api_key: api_key?,
            model,
            voice: self.text("openai.voice"),
            instructions: self.text("assistant.instructions"),
            greeting: self.text("assistant.greeting"),
            language: language.code().into(),
            transcription: Some(transcription).filter(|it| !it.model.is_empty()),
            turns: turns?,
            decides: decides?,
            noise_reduction: noise_reduction?,
            speed: speed?,
            tool_choice: tool_choice?,
            parallel_tool_calls: parallel?,
            reasoning_effort: effort?,
            max_output_tokens: max_output_tokens?.map(|it| it as u32),
            retention_ratio: retention_ratio?,
            session_tokens: session_tokens?,
            tracing: tracing?,
        })))
    }

    fn live(&mut self) -> Option<AssistantPlan> {
        let api_key = self.openai_key();
        let url = self.url("live.url", &["wss", "ws"]);
        Some(AssistantPlan::Live(Arc::new(LivePlan {
            url: url?,
            api_key: api_key?,
            model: self.text("live.model"),
            thinking_model: self.text("live.thinking_model"),
            voice: self.text("live.voice"),
            instructions: self.text("assistant.instructions"),
            greeting: self.text("assistant.greeting"),
        })))
    }

    fn elevenlabs(&mut self, language: Language) -> Option<AssistantPlan> {
        // Each assistant may have an agent of its own.
        let agent_id = Some(self.text("elevenlabs.agent_id"));
        let base_url = self.url("elevenlabs.base_url", &["https", "http"]);
        let allow_overrides = self.flag("elevenlabs.allow_overrides");
        let speed = self.optional_share("elevenlabs.speed", 0.7..=1.2);
        let variables = self.named.get("variables").cloned().unwrap_or_default();
        if let Some((name, it)) = variables.iter().find(|it| it.0.starts_with("system__")) {
            self.problem(it.place.clone(), format!("`{name}` is reserved: names must not begin with system__"));
        }
        let text = |key| Some(self.text(key)).filter(|it| !it.is_empty());
        Some(AssistantPlan::ElevenLabs(Arc::new(ElevenLabsPlan {
            base_url: base_url?,
            agent_id: agent_id?,
            api_key: Some(self.text("elevenlabs.api_key")).filter(|it| !it.is_empty()).map(SecretString::from),
            allow_overrides: allow_overrides?,
            language: language.code().into(),
            prompt: text("elevenlabs.prompt"),
            first_message: text("elevenlabs.first_message"),
            voice_id: text("elevenlabs.voice_id"),
            speed: speed?,
            dynamic_variables: variables.into_iter().map(|(name, it)| (name, it.value.into())).collect(),
        })))
    }
}

/// A text with `${NAME}` replaced by variables of the environment.
fn filled(text: &str, env: &BTreeMap<String, String>) -> std::result::Result<String, String> {
    let (mut all, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        let (name, behind) = after.split_once('}').ok_or("a `${` is not closed")?;
        all.push_str(before);
        all.push_str(env.get(name).filter(|it| !it.is_empty()).ok_or_else(|| format!("{name} is not set in the environment"))?);
        rest = behind;
    }
    Ok(all + rest)
}

/// What stands between commas.
fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|it| !it.is_empty()).map(str::to_owned).collect()
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn unknown(path: &str) -> String {
    let key = path.rsplit('.').next().unwrap_or(path);
    let near = SETTINGS.iter().find(|it| it.key.rsplit('.').next() == Some(key) || it.key.starts_with(path));
    let hint = near.map_or_else(|| "`offhook settings` lists all".to_owned(), |it| format!("did you mean {}?", it.key));
    format!("there is no such setting: {hint}")
}

/// All settings as a Markdown table.
/// Every setting as a line of an environment file, those that nobody has to set as comments.
pub fn env_example() -> String {
    let mut text = String::from(
        "# Every setting, as `offhook settings --env` prints it. Copy to .env, and start with `offhook serve --env-file .env`.\n\
         # What stands behind a # is as it is without being set.\n",
    );
    for it in SETTINGS {
        let needed = matches!(it.env, "PUBLIC_URL" | "TWILIO_AUTH_TOKEN" | "OPENAI_API_KEY");
        let default =
            if it.default.contains([' ', '#', '"', '\'']) { format!("{:?}", it.default) } else { it.default.to_owned() };
        text.push_str(&format!("\n# {}\n{}{}={default}\n", it.about, if needed { "" } else { "# " }, it.env));
    }
    text
}

/// Every setting, as a table for documents.
pub fn table() -> String {
    let mut text = String::from("| In `offhook.toml` | In the environment | Default | Meaning |\n|---|---|---|---|\n");
    for it in SETTINGS {
        let names: Vec<String> = std::iter::once(it.env).chain(it.aliases.iter().copied()).map(|it| format!("`{it}`")).collect();
        let default = match (it.secret, it.default) {
            (true, _) => "secret".into(),
            (_, "") => String::new(),
            (_, long) if long.len() > 40 => "(a sentence)".into(),
            (_, short) => format!("`{short}`"),
        };
        text.push_str(&format!("| `{}` | {} | {default} | {} |\n", it.key, names.join(", "), it.about));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn settings_are_read_from_yaml_and_the_environment_wins() {
        // S3-14.
        let text = "twilio:\n  account_sid: ACaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n  auth_token: from-the-file\n  phone_number: \"+15550100002\"\n";
        let config = load(Some(("config/config.yaml", text)), &env(&[])).unwrap();
        assert!(config.settings.routes.contains_key("+15550100002") && config.rest.is_some());
        let told: Vec<&str> = config.auth_tokens.iter().map(|it| it.expose_secret()).collect();
        assert_eq!(told, ["token-canary"], "the environment's");
        let wrong = load(Some(("config.yaml", "twilio: [")), &env(&[])).unwrap_err().to_string();
        assert!(wrong.contains("config.yaml") && wrong.contains("not YAML"), "{wrong}");
        let unknown = load(Some(("config.yaml", "twilio:\n  sid: x\n")), &env(&[])).unwrap_err().to_string();
        assert!(unknown.contains("config.yaml twilio.sid"), "{unknown}");
    }

    #[test]
    fn the_example_of_an_environment_file_is_complete() {
        // S0-30, S3-13.
        let there = include_str!("../../../.env.example");
        assert!(there == env_example(), "make it anew: cargo run --bin offhook -- settings --env > .env.example");
    }

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let good = [
            ("PUBLIC_URL", "https://phone.example.com"),
            ("TWILIO_AUTH_TOKEN", "token-canary"),
            ("OPENAI_API_KEY", "key-canary"),
        ];
        good.iter().chain(pairs).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[track_caller]
    fn problems(file: Option<&str>, pairs: &[(&str, &str)]) -> String {
        load(file.map(|it| ("offhook.toml", it)), &env(pairs)).unwrap_err().to_string()
    }

    #[test]
    fn three_variables_are_enough() {
        let config = load(None, &env(&[])).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8000");
        let Some(AssistantPlan::OpenAi(plan)) = config.settings.fallback.map(|it| it.assistants[0].clone()) else { panic!() };
        assert_eq!(plan.url.as_str(), "wss://api.openai.com/v1/realtime");
    }

    #[test]
    fn the_environment_wins_over_the_file_and_numbers_have_routes() {
        let file =
            "[server]\nlisten = \"0.0.0.0:1\"\n[[numbers]]\nnumber = \"+40312345678\"\nlanguage = \"ro\"\ntenant = \"dental\"\n";
        let config = load(Some(("offhook.toml", file)), &env(&[("OFFHOOK_LISTEN", "0.0.0.0:2")])).unwrap();
        assert_eq!(config.listen.port(), 2);
        assert!(config.settings.fallback.is_none());
        let route = &config.settings.routes["+40312345678"];
        assert_eq!((&*route.tenant, route.language), ("dental", Language::Romanian));
    }

    #[test]
    fn a_ladder_keys_and_destinations() {
        let file = "[assistant]\nprovider = \"openai, elevenlabs, openai-live\"\nlast_resort = \"reception\"\n\
                    [elevenlabs]\nagent_id = \"agent_x\"\n[floor]\ninterruption = \"confirmed\"\n\
                    [destinations]\nreception = \"+40312345678\"\n[keys]\n0 = \"transfer reception\"\n9 = \"hang up\"\n\
                    [variables]\ncompany = \"Harbour Table\"\n";
        let settings = load(Some(("offhook.toml", file)), &env(&[])).unwrap().settings;
        let assistants = settings.fallback.unwrap().assistants;
        let [AssistantPlan::OpenAi(openai), AssistantPlan::ElevenLabs(agent), AssistantPlan::Live(_)] = &assistants[..] else {
            panic!("{assistants:?}")
        };
        assert!(!openai.decides, "interruptions are weighed here");
        assert_eq!(agent.dynamic_variables["company"], "Harbour Table");
        assert_eq!(settings.conversation.key_actions.len(), 2);
        assert!(settings.conversation.interruption.confirm.is_some() && settings.conversation.interruption.echo_guard);
        let wrong =
            "[destinations]\nbar = \"12\"\n[keys]\nA = \"hang up\"\n5 = \"transfer nowhere\"\n[assistant]\nlast_resort = \"x\"\n";
        let said = problems(Some(wrong), &[]);
        for expected in ["destinations.bar", "keys.A", "no key of a telephone", "keys.5", "transfer NAME", "`x` is not under"] {
            assert!(said.contains(expected), "{expected} is not in\n{said}");
        }
    }

    #[test]
    fn tools_are_configuration_and_their_secrets_are_not_in_it() {
        let file = r#"
[[tools]]
name = "find_order"
description = "Finds an order by its number."
url = "https://shop.example.com/orders/{number}"
headers = { Authorization = "Bearer ${SHOP_TOKEN}" }
parameters = '{"type":"object","properties":{"number":{"type":"string"}},"required":["number"]}'
[[mcp]]
name = "crm"
url = "https://crm.example.com/mcp"
"#;
        let config = load(Some(("offhook.toml", file)), &env(&[("SHOP_TOKEN", "shop-canary")])).unwrap();
        assert_eq!((config.http_tools.len(), config.mcp_servers.len()), (1, 1));
        assert!(!format!("{config:?}").contains("canary"));
        let said = problems(Some(file), &[]);
        assert!(said.contains("offhook.toml:2 tools.headers.Authorization: SHOP_TOKEN is not set"), "{said}");
        let wrong = "[[tools]]\nname = \"a b\"\ndescription = \"x\"\nurl = \"https://{host}/x\"\nretries = 9\ncolour = 1\n[[mcp]]\nname = \"x\"\n[[tools]]\nname = \"t\"\ndescription = \"x\"\nurl = \"https://h/\"\nparameters = \"[]\"\n";
        let said = problems(Some(wrong), &[]);
        for expected in [
            "`a b` is not usable",
            "tools.retries: `9`",
            "tools.colour: expected one of",
            "needs `name` and `url`",
            "tools.parameters",
        ] {
            assert!(said.contains(expected), "{expected} is not in\n{said}");
        }
    }

    #[test]
    fn models_that_end_are_warned_about() {
        // C-48.
        let warned = |model: &str| load(None, &env(&[("OPENAI_MODEL", model)])).unwrap().warnings;
        assert!(warned("gpt-realtime")[0].contains("2027-01-20") && warned("gpt-realtime-mini")[0].contains("ends on"));
        assert!(warned("gpt-realtime-2.1").is_empty() && warned("gpt-realtime-1.5").is_empty());
    }

    #[test]
    fn every_problem_is_named_at_once_with_its_place() {
        let file = "[server]\nlisten = \"nowhere\"\nlissten = 1\n[limits]\nmax_call_duration = 5\n[colours]\nred = 1\n";
        let said = problems(Some(file), &[("OFFHOOK_MAX_CALLS", "many")]);
        for expected in [
            "5 problems",
            "offhook.toml:2 server.listen: `nowhere`",
            "offhook.toml:3 server.lissten: there is no such setting",
            "offhook.toml:5 limits.max_call_duration: `5`",
            "from 30 to 14400",
            "offhook.toml:7 colours.red",
            "OFFHOOK_MAX_CALLS (environment): `many`",
        ] {
            assert!(said.contains(expected), "{expected} is not in\n{said}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let said = problems(None, &[("OPENAI_VAD_THRESHOLD", "7"), ("PUBLIC_URL", "ftp://x")]);
        assert!(!said.contains("canary"), "{said}");
        let config = load(None, &env(&[])).unwrap();
        assert!(!format!("{config:?}").contains("canary"));
    }

    #[test]
    fn what_is_missing_is_said_with_the_fix() {
        let said = load(None, &BTreeMap::new()).unwrap_err().to_string();
        for expected in ["PUBLIC_URL", "TWILIO_AUTH_TOKEN", "OPENAI_API_KEY", "it is not set"] {
            assert!(said.contains(expected), "{expected} is not in\n{said}");
        }
    }

    #[test]
    fn older_names_are_understood_and_contradictions_refused() {
        let mut older = env(&[("API_URL", "https://older.example.com/")]);
        older.remove("PUBLIC_URL");
        assert_eq!(load(None, &older).unwrap().settings.public_url.http(""), "https://older.example.com");
        older.insert("TWILIO_WEBHOOK_BASE_URL".into(), "https://other.example.com".into());
        assert!(load(None, &older).unwrap_err().to_string().contains("two names of one setting"));
        let warned = load(None, &env(&[("ELEVENLABS_PHONE_NUMBER_ID", "x")])).unwrap().warnings;
        assert!(warned[0].contains("obsolete"), "{warned:?}");
    }

    #[test]
    fn signatures_are_skipped_only_at_home() {
        let skip = ("SKIP_WEBHOOK_SIGNATURE_VALIDATION", "true");
        assert!(problems(None, &[skip]).contains("only be skipped while listening on loopback"));
        let everywhere = [skip, ("PUBLIC_URL", "http://127.0.0.1:8000"), ("OFFHOOK_LISTEN", "0.0.0.0:8000")];
        assert!(problems(None, &everywhere).contains("only be skipped"));
        assert!(load(None, &env(&[skip, ("PUBLIC_URL", "http://127.0.0.1:8000")])).unwrap().skip_signatures);
        let outside = [("PUBLIC_URL", "http://phone.example.com")];
        assert!(problems(None, &outside).contains("expected https://"));
        assert!(problems(None, &[skip, outside[0]]).contains("only be skipped"));
    }

    #[test]
    fn the_documented_table_is_this_one() {
        let documented = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md")).unwrap();
        assert!(documented.contains(&table()), "docs/operations.md lacks the table that `offhook settings` prints");
    }
}
