//! The words between a call and those who perform it.

use std::time::Duration;

use media::Frame;

use crate::{EndReason, Event, ItemId, Mark, Prompt, ResponseId};

/// What happened.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // Fields are what their types say.
pub enum Input<'a> {
    /// Time went by; see [`Call::deadline`](crate::Call::deadline).
    Tick,
    /// Up to 20 ms from the caller.
    CallerAudio(&'a Frame),
    /// A key of the caller's.
    CallerKey(char),
    /// Twilio echoed a mark.
    MarkPlayed(Mark),
    /// Twilio said `stop`.
    CallerStopped,
    /// The caller's side ended otherwise: lost, stalled, misbehaved, superseded.
    CallerEnded(EndReason),
    /// The session is configured, history replayed, formats known. `opened`: the opening was asked for while it rang.
    AssistantReady { opened: bool },
    /// The provider began an answer.
    ResponseStarted(ResponseId),
    /// The provider finished an answer, whatever its outcome.
    ResponseDone(ResponseId),
    /// Speech of an answer, μ-law, any length.
    AssistantAudio { response: ResponseId, item: ItemId, ulaw: &'a [u8] },
    /// The item's audio is complete.
    AssistantAudioDone { response: ResponseId, item: ItemId },
    /// All words of an item known so far.
    AssistantText { item: ItemId, text: &'a str },
    /// What the caller said in an item, as the provider wrote it down; without an item it is what they said last.
    CallerText { item: Option<ItemId>, text: &'a str },
    /// The provider's detector heard the caller begin.
    CallerSpeechStarted,
    /// The provider's detector heard the caller end; their words will be known under this item.
    CallerSpeechStopped { item: Option<ItemId> },
    /// The provider cut itself: everything up to this answer is void.
    AssistantInterrupted { through: ResponseId },
    /// The assistant wants a tool run.
    ToolCalled { id: &'a str, name: &'a str, arguments: &'a str },
    /// A tool answered, and perhaps wants something done.
    ToolFinished { id: &'a str, output: &'a str, failed: bool, effect: Option<Effect<'a>> },
    /// Tokens billed; `cached` are part of the input.
    Usage { input_tokens: u64, cached_tokens: u64, output_tokens: u64 },
    /// The session is over: normally, lost or refused.
    AssistantEnded(EndReason),
    /// Somebody outside wants something done.
    Control(Control<'a>),
    /// This process is shutting down: leave at the end of the utterance.
    Drain,
}

/// What a tool wants done with the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect<'a> {
    /// Connect the caller with a destination, by its name.
    Transfer(&'a str),
    /// Play keys as tones into the line.
    Digits(&'a str),
    /// The caller is about to spell or read out a number: their next turn ends later.
    Patience,
}

/// What people and programs outside may do to a live call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Fields are what their types say.
pub enum Control<'a> {
    /// The assistant says exactly this, now.
    Say(&'a str),
    /// The assistant is told something and says nothing to it.
    Inform(&'a str),
    /// The assistant hears silence instead of the caller.
    MuteCaller(bool),
    /// The caller hears nothing of the assistant.
    MuteAssistant(bool),
    /// Neither hears the other; the caller hears the hold sound.
    Hold(bool),
    /// Keys as tones into the line.
    Digits(&'a str),
    /// Connects the caller with a destination, by its name.
    Transfer(&'a str),
    /// Says goodbye, then ends the call.
    HangUp,
}

/// What must be done, in order.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // Fields are what their types say.
pub enum Action {
    /// Open a session with this assistant of the ladder, and give up whatever session or attempt there is. The first one is
    /// opened without being asked for.
    ConnectAssistant { candidate: usize },
    /// Caller audio for the provider.
    SendToAssistant(Frame),
    /// 20 ms for Twilio.
    PlayToCaller(Frame),
    /// A mark behind the audio sent so far.
    MarkCaller(Mark),
    /// Throw away what Twilio holds.
    ClearCaller,
    /// Tell the provider how much of an item was heard; zero means nothing of it.
    Truncate { item: ItemId, heard: Duration },
    /// Stop an answer that the provider would not stop by itself.
    CancelResponse(ResponseId),
    /// Ask for an answer.
    RequestResponse(Prompt),
    /// Add a fact to the conversation, and have it answered.
    TellAssistant(String),
    /// Add a fact to the conversation, and nothing else.
    InformAssistant(String),
    /// Run a tool; the answer comes back as [`Input::ToolFinished`].
    RunTool { id: String, name: String, arguments: String },
    /// The answer to a tool call; `respond` asks the assistant to go on.
    AnswerTool { id: String, output: String, failed: bool, respond: Option<Prompt> },
    /// Wait longer for the end of the caller's turn, or as usual again.
    ListenPatiently(bool),
    /// A fact for the record.
    Record(Event),
    /// Close the provider's socket normally.
    CloseAssistant,
    /// Close the caller's socket normally: Twilio then asks `next`.
    CloseCaller,
}
