//! What is decided about a call before it begins.

use std::sync::Arc;
use std::time::Duration;

use crate::BackChannel;

/// Limits, timers and manners of one call.
#[derive(Clone, Debug)]
pub struct CallConfig {
    /// Who may answer, in the order in which they are tried; never empty.
    pub assistants: Vec<Manner>,
    /// Longest wait for an assistant's session; then the next one is tried.
    pub answer_timeout: Duration,
    /// Same for a session that replaces one in the middle of a call: the caller is waiting.
    pub reconnect_timeout: Duration,
    /// Caller frames (20 ms each) kept while nobody listens; the oldest go first. What they bring was said and not answered.
    pub preroll_frames_max: usize,
    /// Audio kept at Twilio ahead of the ear: enough to hide scheduling, little enough to make `clear` cheap.
    pub lead: Duration,
    /// Silence is played between utterances, to carry a background sound; otherwise nothing is.
    pub fill_silence: bool,
    /// Assistant audio kept here; what comes on top is dropped and counted.
    pub backlog_max: Duration,
    /// How the caller takes the floor.
    pub interruption: Interruption,
    /// The greeting is heard out: until then the assistant hears silence.
    pub protect_greeting: bool,
    /// On calls that we make: the opening is held back until the callee has spoken and paused, or has been silent for so
    /// long. `None` opens at once.
    pub callee_first: Option<Duration>,
    /// Longest wait for a farewell to begin, and for its last mark after its expected end.
    pub farewell_timeout: Duration,
    /// Longest gap between caller frames.
    pub media_timeout: Duration,
    /// Longest call; the assistant is asked to say goodbye when it is reached.
    pub duration_max: Duration,
    /// How long before that the assistant is asked to warn the caller; `None` never.
    pub warn_before: Option<Duration>,
    /// Longest wait for a tool.
    pub tool_timeout: Duration,
    /// Tools that one turn may use, and the whole call: a model in a loop is stopped.
    pub tools_per_turn: u32,
    /// See `tools_per_turn`.
    pub tools_per_call: u32,
    /// What is said while a tool takes its time, one after the other; μ-law.
    pub tool_fillers: Vec<Arc<[u8]>>,
    /// Silence after which that is said.
    pub tool_filler_after: Duration,
    /// An answer that is owed must begin within this time: then it is asked for again, then `filler` is played, then the
    /// session is replaced. `None` waits for ever.
    pub answer_due: Option<Duration>,
    /// "One moment, please", μ-law: while an answer is overdue, or a session is being replaced.
    pub filler: Option<Arc<[u8]>>,
    /// Silence of both sides after which the assistant asks whether the caller is there; `None` never.
    pub idle_after: Option<Duration>,
    /// How often it asks before it says goodbye.
    pub idle_prompts_max: u32,
    /// Keys that follow each other within this time are one entry, told to the assistant as a whole; `#` ends one at once.
    pub key_gap: Duration,
    /// Keys that do something of their own when pressed alone.
    pub key_actions: Vec<(char, KeyAction)>,
    /// Our own phrase at the start of the stream, μ-law: what a resumed caller hears at once.
    pub phrase: Option<Arc<[u8]>>,
    /// What must be heard out before anything else is said, μ-law: a legal notice.
    pub notice: Option<Arc<[u8]>>,
    /// What a caller on hold hears, over and over; μ-law.
    pub hold_sound: Option<Arc<[u8]>>,
    /// What the assistant is asked for when it is ready.
    pub opening: Prompt,
}

impl CallConfig {
    /// What fits most telephone calls, with nothing optional: operators change what they know better.
    pub fn new(assistants: Vec<Manner>) -> Self {
        Self {
            assistants,
            answer_timeout: Duration::from_secs(10),
            reconnect_timeout: Duration::from_secs(6),
            preroll_frames_max: 150,
            lead: Duration::from_millis(200),
            fill_silence: false,
            backlog_max: Duration::from_secs(120),
            interruption: Interruption { heard_by: HeardBy::Provider, confirm: None, echo_guard: false },
            protect_greeting: false,
            callee_first: None,
            farewell_timeout: Duration::from_secs(4),
            media_timeout: Duration::from_secs(5),
            duration_max: Duration::from_secs(600),
            warn_before: None,
            tool_timeout: Duration::from_secs(20),
            tools_per_turn: 8,
            tools_per_call: 100,
            tool_fillers: Vec::new(),
            tool_filler_after: Duration::from_secs(2),
            answer_due: None,
            filler: None,
            idle_after: None,
            idle_prompts_max: 2,
            key_gap: Duration::from_millis(1200),
            key_actions: Vec::new(),
            phrase: None,
            notice: None,
            hold_sound: None,
            opening: Prompt::Greeting,
        }
    }
}

/// What a provider does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// It ends turns, answers and cancels its own answers. Otherwise all three are ordered.
    pub decides: bool,
    /// Gap in the audio that ends an utterance, for providers that announce no end; `None` for those that do. Speech comes
    /// faster than it plays, so a short gap is proof enough.
    pub utterance_gap: Option<Duration>,
    /// Its sessions end after a time; they are replaced this long after their start, when nobody speaks.
    pub session_life: Option<Duration>,
    /// Its answers become slow and dear as the conversation grows: a session whose answer was made from more input tokens
    /// than this, and from twice as many as its first one, is replaced in the next pause. A new one knows the words only.
    pub session_tokens: Option<u64>,
}

/// How the caller takes the floor from the assistant. With a provider that decides, the provider's word is final, and our
/// own detector only lowers the assistant's voice.
#[derive(Clone, Debug)]
pub struct Interruption {
    /// Whose signs count.
    pub heard_by: HeardBy,
    /// `None`: the first sign is believed.
    pub confirm: Option<Confirm>,
    /// A sign that sounds like what was just played is none.
    pub echo_guard: bool,
}

/// Whose detector is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeardBy {
    /// The provider's.
    Provider,
    /// Our own.
    Ourselves,
    /// Whichever is first.
    Either,
}

/// What proves that a sound is an interruption.
#[derive(Clone, Debug)]
pub struct Confirm {
    /// Speech of this length, by our own detector.
    pub speech: Duration,
    /// What the caller hears until that is clear.
    pub meanwhile: Meanwhile,
    /// Longest wait for the words of a shorter one. Words that are no back-channel prove it; nothing else does.
    pub words_within: Duration,
    /// What callers say without wanting the floor.
    pub back_channel: BackChannel,
}

/// What becomes of the assistant's speech while it is not clear who has the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// It goes on 12 dB quieter, as soon as what Twilio holds is played.
    Duck,
    /// It stops, and goes on from where the ear was.
    Pause,
}

/// What a key does when it is pressed alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyAction {
    /// Connects the caller with a destination, by its name.
    Transfer(Arc<str>),
    /// Ends the call.
    HangUp,
}

/// What an answer is asked for. Providers that speak unprompted ignore it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Greet the caller.
    Greeting,
    /// Go on after an interruption of the line or of the session: no greeting, no repetition.
    Continuation,
    /// Answer what was just added to the conversation.
    Answer,
    /// Ask whether the caller is still there.
    AreYouThere,
    /// Tell the caller that the call must end soon.
    EndingSoon,
    /// Tell the caller that they are being connected with somebody.
    Connecting,
    /// Say goodbye.
    Farewell,
    /// Say exactly this.
    Say(Arc<str>),
}
