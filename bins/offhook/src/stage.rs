//! A server between a simulated telephone network and simulated providers, for stories that are told and judged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bridge::{AssistantPlan, ElevenLabsPlan, LivePlan, OpenAiPlan, SoundPlan, TranscriptionPlan};
use call::CallConfig;
use desk::{Language, PublicUrl, Route, Settings};
use sim::{
    Behaviour, CallOutcome, ElevenLabs, Live, Moment, Network, OpenAi, OutputFormat, Party, Speech, TelephoneNetwork, Timeline,
};
use store::{Fact, Speaker, Store};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::server::{Parts, Server, Simulated};

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    Openai,
    Elevenlabs,
    /// OpenAI Live: one stream of sound, no turns
    Live,
}

impl Provider {
    /// As it is written in arguments and file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Elevenlabs => "elevenlabs",
            Self::Live => "live",
        }
    }
}

/// What audio the provider insists on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// μ-law, passed through untouched
    Ulaw,
    /// 24 kHz (OpenAI) or 16 kHz (ElevenLabs) PCM, converted
    Pcm16,
    /// Announces μ-law and sends PCM: found out by listening
    Lies,
}

/// What to show.
#[derive(Clone)]
pub struct Options {
    pub provider: Provider,
    pub format: Format,
    pub language: String,
    pub calls: usize,
    /// Calls that the server takes at a time.
    pub calls_max: usize,
    /// Path under which the server is known, such as `/voiceclone`; empty for the root.
    pub prefix: String,
    pub sound: SoundPlan,
    /// What all calls have in common.
    pub conversation: CallConfig,
    /// The agent is asked to speak the route's language and to say the route's greeting (ElevenLabs).
    pub overrides: bool,
    /// Who answers when the first one cannot; behaves as it should.
    pub then: Option<Provider>,
    /// The first session is opened while it rings.
    pub prepare: bool,
    /// Whom callers may be connected with: number by name.
    pub destinations: BTreeMap<String, String>,
    /// Who is rung when nobody can answer.
    pub last_resort: Option<String>,
    /// In-memory for virtual time.
    pub network: Network,
    /// The clock is paused: see [`Store::open_for_simulation`].
    pub virtual_time: bool,
    /// Prints the timeline as it happens.
    pub print: bool,
    pub folder: PathBuf,
}

impl Options {
    /// One English call in virtual time, in memory, nothing printed.
    pub fn simulated(provider: Provider, format: Format, folder: &Path) -> Self {
        Self {
            provider,
            format,
            language: "en".into(),
            calls: 1,
            calls_max: 10,
            prefix: String::new(),
            sound: SoundPlan::default(),
            conversation: conversation(),
            overrides: false,
            then: None,
            prepare: true,
            destinations: BTreeMap::new(),
            last_resort: None,
            network: Network::memory(),
            virtual_time: true,
            print: false,
            folder: folder.to_owned(),
        }
    }
}

/// Limits that a story does not meet unless it means to: only the waiting for answers is as in real calls.
pub fn conversation() -> CallConfig {
    CallConfig {
        duration_max: Duration::from_secs(3600),
        answer_due: Some(Duration::from_secs(6)),
        ..CallConfig::new(Vec::new())
    }
}

/// The account at the simulated network, and what signs its requests.
pub const ACCOUNT: &str = "AC00000000000000000000000000000001";
pub const AUTH_TOKEN: &str = "demo-auth-token";
const PROVIDER_KEY: &str = "demo-provider-key";
const AGENT: &str = "agent_demo";
/// The number that is answered, and whose it is.
pub const CALLED: &str = "+15550100002";
pub const TENANT: &str = "demo";

/// Everything that the demo started.
pub struct Stage {
    pub server: Server,
    pub timeline: Timeline,
    pub address: std::net::SocketAddr,
    /// The caller's side, to be rung with other scripts.
    pub telephone: TelephoneNetwork,
    pub speech: Speech,
    providers: CancellationToken,
    /// What the server said of a single call.
    told: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Stage {
    /// Starts the provider and the server.
    ///
    /// # Errors
    /// When a port, the folder or the language is not to be had.
    pub async fn set(options: &Options) -> Result<Self> {
        Self::set_with(options, |_| ()).await
    }

    /// Same, with a provider that behaves otherwise.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub async fn set_with(options: &Options, change: impl FnOnce(&mut Behaviour)) -> Result<Self> {
        let speech = Speech::of(&options.language)
            .with_context(|| format!("there is no recorded speech in `{}`: expected en or ro", options.language))?;
        let begun = Instant::now();
        let timeline = Timeline::new(options.print.then(|| watcher(options.calls)));
        let providers = CancellationToken::new();
        let (listener, address) = options.network.listen().await?;
        let format = match options.format {
            Format::Ulaw => OutputFormat::Ulaw,
            Format::Pcm16 => OutputFormat::Pcm16,
            Format::Lies => OutputFormat::Lies,
        };
        let mut behaviour = Behaviour::new(script(), speech, format, PROVIDER_KEY);
        change(&mut behaviour);
        let behaviour = Arc::new(behaviour);
        let language: Language = options.language.parse().map_err(anyhow::Error::msg)?;
        let first = provider(options.provider, behaviour, listener, &address.to_string(), options, &timeline, &providers)?;
        let mut assistants = vec![first];
        if let Some(then) = options.then {
            let (listener, address) = options.network.listen().await?;
            let behaviour = Arc::new(Behaviour::new(script(), speech, format, PROVIDER_KEY));
            assistants.push(provider(then, behaviour, listener, &address.to_string(), options, &timeline, &providers)?);
        }
        let (listener, address) = options.network.listen().await?;
        let public_url = PublicUrl::parse(&format!("http://{address}{}", options.prefix)).map_err(anyhow::Error::msg)?;
        let route = Route { tenant: TENANT.into(), name: "front-desk".into(), assistants, language };
        let settings = Settings {
            public_url: public_url.clone(),
            node_url: public_url.clone(),
            node: "demo".into(),
            routes: [(CALLED.to_owned(), route)].into(),
            fallback: None,
            templates: Default::default(),
            conversation: options.conversation.clone(),
            back_channel: Vec::new(),
            prepare: options.prepare,
            destinations: options.destinations.clone(),
            last_resort: options.last_resort.clone(),
            sound: options.sound.clone(),
            recordings: Some(options.folder.join("recordings")),
            recording_format: "wav".into(),
            time_zone: jiff::tz::TimeZone::UTC,
        };
        let database = format!("sqlite:{}", options.folder.join("offhook.db").display());
        let store =
            if options.virtual_time { Store::open_for_simulation(&database).await? } else { Store::open(&database).await? };
        let parts = Parts {
            settings,
            calls_max: Some(options.calls_max),
            http_tools: Vec::new(),
            mcp_servers: Vec::new(),
            auth_tokens: Some(vec![AUTH_TOKEN.to_owned().into()]),
            api: control::ApiSettings::default(),
            net: Arc::new(Simulated(options.network.clone())),
            listener,
            beside: None,
            store,
        };
        let server = Server::start(parts, &options.folder).await?;
        let told = Arc::<Mutex<Vec<(Duration, String)>>>::default();
        if options.calls == 1 {
            let (mut facts, told, print) = (server.ledger.subscribe(), told.clone(), options.print);
            tokio::spawn(async move {
                while let Ok(entry) = facts.recv().await {
                    let (at, line) = (begun.elapsed(), tell(&entry.fact));
                    if print {
                        print_line(at, "offhook", &line);
                    }
                    told.lock().unwrap_or_else(PoisonError::into_inner).push((at, line));
                }
            });
        }
        let telephone = TelephoneNetwork {
            net: options.network.clone(),
            timeline: timeline.clone(),
            account_sid: ACCOUNT.into(),
            auth_token: AUTH_TOKEN.into(),
            voice_url: public_url.http("/twilio/voice"),
            status_url: public_url.http("/twilio/status"),
            speech,
            repeat_first_webhook: false,
            connecting: Duration::ZERO,
            people: BTreeMap::new(),
        };
        Ok(Self { server, timeline, address, telephone, speech, providers, told })
    }

    /// Lets `calls` callers ring, a little apart, and waits until all calls are over.
    pub async fn perform(&self, calls: usize) -> Result<Vec<CallOutcome>> {
        let script: sim::CallerScript = include_str!("../scenarios/demo.caller").parse()?;
        let ringing = (0..calls).map(|index| {
            let (telephone, script) = (self.telephone.clone(), script.clone());
            async move {
                tokio::time::sleep(Duration::from_millis(index as u64 * 50)).await;
                telephone.ring(&format!("+1555010{index:04}"), CALLED, script).await
            }
        });
        let outcomes = futures::future::join_all(ringing).await;
        self.server.bridge.idle().await;
        timeout(DELIVERY_MAX, self.server.ledger.journal().flush())
            .await
            .context("the database does not take the facts of the calls: set RUST_LOG=warn to see why")?;
        Ok(outcomes)
    }

    /// What the server said of a single call, with times since the beginning.
    pub fn told(&self) -> Vec<(Duration, String)> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops everything.
    pub async fn strike(self) {
        self.providers.cancel();
        self.server.shut_down(Duration::from_secs(1)).await;
    }
}

/// What the assistant of the demo says to what.
fn script() -> sim::AssistantScript {
    include_str!("../scenarios/demo.assistant").parse().expect("the demo's script is tested")
}

/// Starts a simulated provider and says how it is reached.
fn provider(
    provider: Provider,
    behaviour: Arc<Behaviour>,
    listener: sim::Listener,
    address: &str,
    options: &Options,
    timeline: &Timeline,
    stop: &CancellationToken,
) -> Result<AssistantPlan> {
    let language: Language = options.language.parse().map_err(anyhow::Error::msg)?;
    Ok(match provider {
        Provider::Openai => {
            tokio::spawn(OpenAi { behaviour, timeline: timeline.clone() }.serve(listener, stop.clone()));
            AssistantPlan::OpenAi(Arc::new(openai(&format!("ws://{address}/v1/realtime"), language, options)?))
        }
        Provider::Elevenlabs => {
            let api_key = Some(PROVIDER_KEY).filter(|_| !behaviour.api_key.is_empty());
            let plan = elevenlabs(&format!("http://{address}"), api_key, language, options)?;
            tokio::spawn(ElevenLabs::new(behaviour, timeline.clone(), AGENT, address).serve(listener, stop.clone()));
            AssistantPlan::ElevenLabs(Arc::new(plan))
        }
        Provider::Live => {
            tokio::spawn(Live { behaviour, timeline: timeline.clone() }.serve(listener, stop.clone()));
            AssistantPlan::Live(Arc::new(LivePlan {
                url: Url::parse(&format!("ws://{address}/v1/live/sessions"))?,
                api_key: PROVIDER_KEY.to_owned().into(),
                model: "gpt-live-1".into(),
                thinking_model: "gpt-5-mini".into(),
                voice: "marin".into(),
                instructions: INSTRUCTIONS.into(),
                greeting: GREETING.into(),
            }))
        }
    })
}

const INSTRUCTIONS: &str = "You answer the telephone of Harbour Table, a restaurant.";
const GREETING: &str = "Greet the caller.";

/// The simulated OpenAI account. It decides unless interruptions are to be proven.
fn openai(url: &str, language: Language, options: &Options) -> Result<OpenAiPlan> {
    let interruption = &options.conversation.interruption;
    Ok(OpenAiPlan {
        instructions: INSTRUCTIONS.into(),
        greeting: GREETING.into(),
        language: language.code().into(),
        transcription: Some(TranscriptionPlan { model: "gpt-transcribe".into(), ..TranscriptionPlan::default() }),
        decides: interruption.confirm.is_none() && interruption.heard_by == call::HeardBy::Provider,
        ..OpenAiPlan::new(Url::parse(url)?, PROVIDER_KEY.to_owned().into(), "gpt-realtime-2.1")
    })
}

/// The simulated ElevenLabs agent.
fn elevenlabs(base_url: &str, api_key: Option<&str>, language: Language, options: &Options) -> Result<ElevenLabsPlan> {
    Ok(ElevenLabsPlan {
        base_url: Url::parse(base_url)?,
        agent_id: AGENT.into(),
        api_key: api_key.map(|it| it.to_owned().into()),
        allow_overrides: options.overrides,
        language: language.code().into(),
        prompt: None,
        first_message: None,
        voice_id: None,
        speed: None,
        dynamic_variables: Default::default(),
    })
}

/// Longest wait for the database after the calls.
const DELIVERY_MAX: Duration = Duration::from_secs(120);

/// Prints the story of one call as it happens, of many calls how far they are.
fn watcher(calls: usize) -> sim::Watcher {
    let over = AtomicUsize::new(0);
    Arc::new(move |at: Duration, party, moment: &Moment| {
        if calls == 1 {
            let who = if party == Party::Telephone { "telephone" } else { "provider" };
            print_line(at, who, &moment.to_string());
        } else if matches!(moment, Moment::CallEnded { .. }) {
            let over = over.fetch_add(1, Ordering::Relaxed) + 1;
            print_line(at, "telephone", &format!("{over} of {calls} calls are over"));
        } else if matches!(moment, Moment::Warning { .. } | Moment::StepFailed { .. }) {
            print_line(at, "telephone", &moment.to_string());
        }
    })
}

fn print_line(at: Duration, who: &str, what: &str) {
    println!("{:>8.3} s  {who:<9}  {what}", at.as_secs_f64());
}

fn tell(fact: &Fact) -> String {
    match fact {
        Fact::Ringing { assistant, language, .. } => format!("answered: {assistant}, {language}"),
        Fact::AssistantReady { after_ms, .. } => format!("assistant ready {after_ms} ms into the stream"),
        Fact::FirstAudio { after_ms } => format!("first sound {after_ms} ms into the stream"),
        Fact::AssistantLost { reason } => format!("session lost: {reason}"),
        Fact::Transfer { to } => format!("to be connected with {to}"),
        Fact::Transferred { to, status } => format!("was connected with {to}: {status}"),
        Fact::Message { .. } => "message taken".into(),
        Fact::Controlled { what } => format!("from outside: {what}"),
        Fact::Said { speaker, text, cut, .. } => {
            let who = if *speaker == Speaker::Caller { "caller" } else { "assistant" };
            format!("{who}: “{text}{}”", if *cut { " …" } else { "" })
        }
        Fact::Interrupted { heard_ms, received_ms, cleared_ms, .. } => {
            format!("interrupted: {heard_ms} of {received_ms} ms heard, {cleared_ms} ms cleared at Twilio")
        }
        Fact::Turn { endpointing_us, thinking_us, bridging_us, playout_us } => {
            format!("turn: {} ms", (endpointing_us + thinking_us + bridging_us + playout_us) / 1000)
        }
        Fact::Key { key } => format!("key {key}"),
        Fact::ToolCalled { name, .. } => format!("tool {name} wanted"),
        Fact::ToolFinished { output, .. } => format!("tool answered: {output}"),
        Fact::Ended { reason, .. } => format!("stream over: {reason}"),
        Fact::Next { answer } => format!("next: {answer}"),
        Fact::Recorded { length_ms: 0, .. } => "recording begins".into(),
        Fact::Recorded { length_ms, .. } => format!("recording: {length_ms} ms, two channels"),
        Fact::Status { status, .. } => format!("status {status}"),
        Fact::StreamStatus { event, .. } => event.clone(),
        other => other.kind().replace('_', " "),
    }
}
