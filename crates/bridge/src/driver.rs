//! One task per call: reads both sockets, asks the [`Call`] what to do, does it.

use std::sync::Arc;
use std::time::Duration;

use call::{Action, Call, EndReason, Event, Input};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::SplitStream;
use media::Frame;
use media::enhance::Chain;
use media::g711::ulaw;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use wire::twilio::FromTwilio;

use crate::accept::Bridge;
use crate::assistant::{Fault, Mapper, Uplink, UplinkPrinter, dial, mapper};
use crate::directory::{Command, Seat};
use crate::limits;
use crate::metrics::{DropLabels, PeerLabels};
use crate::net::{BoxIo, DialError};
use crate::plan::{AssistantPlan, CallFact, CallPlan, Fact, ToolRequest};
use crate::record::{Recorder, Recording};
use crate::twilio::{Clear, Media, TwilioPrinter, parse_mark};
use crate::writer::{Outbox, Printer, Stalled, writer};

pub(crate) struct Driver<S> {
    bridge: Arc<Bridge>,
    plan: CallPlan,
    seat: Seat,
    started: Instant,
    call: Call,
    actions: Vec<Action>,
    caller: SplitStream<WebSocketStream<S>>,
    to_caller: Outbox<TwilioPrinter>,
    mapper: Box<dyn Mapper>,
    assistant: Assistant,
    recorder: Option<Recorder>,
    tools: JoinSet<(String, Result<String, String>)>,
    writers: JoinSet<()>,
    allowance: Allowance,
    caller_faults: u32,
    assistant_faults: u32,
    audio: Vec<u8>,
    played: bool,
    /// What the caller hears goes through this.
    downlink: Chain,
}

/// The assistant's side of the call.
enum Assistant {
    Dialling(BoxFuture<'static, Result<WebSocketStream<BoxIo>, DialError>>),
    Connected { read: SplitStream<WebSocketStream<BoxIo>>, outbox: Uplink },
    Gone,
}

enum FromAssistant {
    Dialled(Result<Box<WebSocketStream<BoxIo>>, DialError>),
    Message(Option<Result<Message, Error>>),
}

impl Assistant {
    /// Safe to drop at any time: nothing is lost between two polls.
    async fn next(&mut self) -> FromAssistant {
        match self {
            Self::Dialling(dialling) => FromAssistant::Dialled(dialling.await.map(Box::new)),
            Self::Connected { read, .. } => FromAssistant::Message(read.next().await),
            Self::Gone => std::future::pending().await,
        }
    }

    fn outbox(&self) -> Option<&Uplink> {
        match self {
            Self::Connected { outbox, .. } => Some(outbox),
            Self::Dialling(_) | Self::Gone => None,
        }
    }
}

/// Messages a caller's socket may still send: a bucket that fills at four times the real rate.
struct Allowance {
    left: f64,
    at: Duration,
}

impl Allowance {
    fn take(&mut self, now: Duration) -> bool {
        let earned = now.saturating_sub(self.at).as_secs_f64() * f64::from(limits::CALLER_MESSAGES_PER_SECOND);
        self.left = (self.left + earned).min(f64::from(limits::CALLER_MESSAGES_BURST)) - 1.0;
        self.at = now;
        self.left >= 0.0
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Driver<S> {
    pub(crate) fn new(
        bridge: Arc<Bridge>,
        mut plan: CallPlan,
        socket: WebSocketStream<S>,
        stream_sid: String,
        seat: Seat,
    ) -> Self {
        let (sink, caller) = socket.split();
        let mut writers = JoinSet::new();
        let (to_caller, task) = writer(TwilioPrinter { stream_sid, name: String::with_capacity(24) }, sink, limits::CALLER_RING);
        writers.spawn(task);
        let dialling = {
            let (assistant, net) = (plan.assistant.clone(), bridge.net.clone());
            Box::pin(async move {
                let host = match &assistant {
                    AssistantPlan::OpenAi(plan) => plan.url.host_str().unwrap_or_default().to_owned(),
                    AssistantPlan::ElevenLabs(plan) => plan.base_url.host_str().unwrap_or_default().to_owned(),
                };
                timeout(limits::DIAL_TIMEOUT, dial(assistant, net))
                    .await
                    .unwrap_or_else(|_| Err(DialError::Unreachable { host, problem: "it did not answer in time".into() }))
            })
        };
        let tools = bridge.tools.definitions(&plan.tenant);
        let history = std::mem::take(&mut plan.history);
        Self {
            started: Instant::now(),
            call: Call::new(plan.config.clone()),
            actions: Vec::with_capacity(32),
            caller,
            to_caller,
            mapper: mapper(&plan.assistant, history, tools, bridge.metrics.clone()),
            assistant: Assistant::Dialling(dialling),
            recorder: plan.recording.as_deref().map(Recorder::start),
            tools: JoinSet::new(),
            writers,
            allowance: Allowance { left: f64::from(limits::CALLER_MESSAGES_BURST), at: Duration::ZERO },
            caller_faults: 0,
            assistant_faults: 0,
            audio: Vec::with_capacity(256),
            played: false,
            downlink: plan.sound.downlink(),
            bridge,
            plan,
            seat,
        }
    }

    /// Runs the call to its end and leaves nothing behind.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        tracing::info!("the stream has started");
        if let Some(path) = self.plan.recording.clone() {
            // Told at once: after a crash the file is there, and somebody must know of it.
            self.bridge.journal.record(self.fact(Fact::Recorded { path, length: Duration::ZERO, sha256: None }));
        }
        self.input(Input::Tick);
        let timer = sleep_until(self.started);
        tokio::pin!(timer);
        while !self.call.is_ended() {
            let deadline = self.call.deadline().map_or(self.started + Duration::from_secs(1), |(at, _)| self.started + at);
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            tokio::select! {
                biased;
                Some(command) = commands.recv() => self.command(command),
                message = self.caller.next() => self.caller_message(message),
                event = self.assistant.next() => self.assistant_event(event),
                Some(answered) = self.tools.join_next() => self.tool_answered(answered.ok()),
                () = timer.as_mut() => self.input(Input::Tick),
            }
            self.notice_dead_writers();
        }
        self.leave().await;
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn input(&mut self, input: Input<'_>) {
        let now = self.now();
        self.call.handle(now, input, &mut self.actions);
        self.perform();
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Drain => self.input(Input::Drain),
            Command::Supersede => self.input(Input::CallerEnded(EndReason::Superseded)),
        }
    }

    fn caller_message(&mut self, message: Option<Result<Message, Error>>) {
        let now = self.now();
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => return,
            Some(Ok(Message::Binary(_))) => return self.caller_fault("a binary message"),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return self.input(Input::CallerEnded(EndReason::CallerLost)),
        };
        if !self.allowance.take(now) {
            tracing::warn!("the caller's socket sends more than any telephone does");
            return self.input(Input::CallerEnded(EndReason::CallerMisbehaved));
        }
        match FromTwilio::parse(&text) {
            Ok(FromTwilio::Media { payload, .. }) => {
                if wire::audio::decode(&payload, &mut self.audio).is_err() {
                    return self.caller_fault("audio that is not base64");
                }
                let audio = std::mem::take(&mut self.audio);
                for frame in Frame::cut(&audio) {
                    self.bridge.metrics.caller_frames.inc();
                    if let Some(recorder) = &mut self.recorder {
                        recorder.caller(&frame);
                    }
                    self.call.handle(now, Input::CallerAudio(frame), &mut self.actions);
                }
                self.audio = audio;
                self.perform();
                self.bridge.metrics.caller_to_assistant.observe((self.now() - now).as_secs_f64());
            }
            Ok(FromTwilio::Mark { name }) => match parse_mark(&name) {
                Some(mark) => self.input(Input::MarkPlayed(mark)),
                None => self.caller_fault("a mark that we never sent"),
            },
            Ok(FromTwilio::Dtmf { digit }) => self.input(Input::CallerKey(digit)),
            Ok(FromTwilio::Stop) => self.input(Input::CallerStopped),
            Ok(FromTwilio::Connected | FromTwilio::Start(_)) => self.caller_fault("a second start"),
            Ok(FromTwilio::Other(_)) => {
                self.bridge.metrics.unknown_events.get_or_create(&PeerLabels { peer: "twilio" }).inc();
            }
            Err(error) => self.caller_fault(&error.to_string()),
        }
    }

    fn caller_fault(&mut self, problem: &str) {
        self.caller_faults += 1;
        self.bridge.metrics.faults.get_or_create(&PeerLabels { peer: "twilio" }).inc();
        tracing::warn!(problem, faults = self.caller_faults, "the caller's socket broke its protocol");
        if self.caller_faults >= limits::CALLER_FAULTS_MAX {
            self.input(Input::CallerEnded(EndReason::CallerMisbehaved));
        }
    }

    fn assistant_event(&mut self, event: FromAssistant) {
        match event {
            FromAssistant::Dialled(Ok(socket)) => {
                let (sink, read) = (*socket).split();
                let (outbox, task) =
                    writer(UplinkPrinter::new(&self.plan.assistant, self.plan.sound.uplink()), sink, limits::ASSISTANT_RING);
                self.writers.spawn(task);
                let opened = self.mapper.opened(&outbox);
                self.assistant = Assistant::Connected { read, outbox };
                if let Err(fault) = opened {
                    self.assistant_fault(fault);
                }
            }
            FromAssistant::Dialled(Err(error)) => {
                tracing::error!(%error, "the assistant cannot be reached");
                self.assistant_gone(if error.is_refusal() { EndReason::AssistantRefused } else { EndReason::AssistantLost });
            }
            FromAssistant::Message(Some(Ok(Message::Text(text)))) => self.assistant_message(&text),
            FromAssistant::Message(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => (),
            FromAssistant::Message(Some(Ok(Message::Binary(_)))) => {
                self.assistant_fault(Fault::Malformed("a binary message".into()));
            }
            FromAssistant::Message(Some(Ok(Message::Close(frame)))) => {
                let code = frame.as_ref().map(|it| u16::from(it.code));
                let reason = self.mapper.closed(code);
                tracing::info!(code, said = frame.as_ref().map(|it| it.reason.as_str()), %reason, "the provider closed the session");
                self.assistant_gone(reason);
            }
            FromAssistant::Message(Some(Err(error))) => {
                tracing::warn!(%error, "the provider's socket was lost");
                self.assistant_gone(EndReason::AssistantLost);
            }
            FromAssistant::Message(None) => self.assistant_gone(self.mapper.closed(None)),
        }
    }

    fn assistant_message(&mut self, text: &str) {
        let now = self.now();
        let Assistant::Connected { outbox, .. } = &self.assistant else { return };
        let (call, actions) = (&mut self.call, &mut self.actions);
        let result = self.mapper.receive(text, &mut |input| call.handle(now, input, actions), outbox);
        self.perform();
        self.bridge.metrics.assistant_to_caller.observe((self.now() - now).as_secs_f64());
        if let Err(fault) = result {
            self.assistant_fault(fault);
        }
    }

    fn assistant_fault(&mut self, fault: Fault) {
        let peer = self.mapper.peer();
        self.bridge.metrics.faults.get_or_create(&PeerLabels { peer }).inc();
        let reason = match &fault {
            Fault::Malformed(_) => {
                self.assistant_faults += 1;
                (self.assistant_faults >= limits::ASSISTANT_FAULTS_MAX).then_some(EndReason::AssistantLost)
            }
            Fault::Refused(_) => Some(EndReason::AssistantRefused),
            Fault::Lost(_) | Fault::Stalled => Some(EndReason::AssistantLost),
        };
        tracing::warn!(peer, %fault, "trouble with the provider");
        if let Some(reason) = reason {
            self.assistant_gone(reason);
        }
    }

    /// The provider's leg is over: its socket is closed, the call decides what follows.
    fn assistant_gone(&mut self, reason: EndReason) {
        if let Some(outbox) = self.assistant.outbox() {
            self.count_dropped("assistant", outbox);
            outbox.close(1000, "");
        }
        self.assistant = Assistant::Gone;
        self.input(Input::AssistantEnded(reason));
    }

    fn tool_answered(&mut self, answered: Option<(String, Result<String, String>)>) {
        // A tool that panicked stays unanswered; the call's own deadline answers for it.
        if let Some((id, answer)) = answered {
            let failed = answer.is_err();
            let output = answer.unwrap_or_else(|error| error);
            self.input(Input::ToolFinished { id: &id, output: &output, failed });
        }
    }

    /// A writer that ended without being told to has lost its peer.
    fn notice_dead_writers(&mut self) {
        if self.call.is_ended() {
            return;
        }
        if self.to_caller.is_gone() {
            self.input(Input::CallerEnded(EndReason::CallerLost));
        } else if self.assistant.outbox().is_some_and(Outbox::is_gone) {
            self.assistant_gone(EndReason::AssistantLost);
        }
    }

    /// Does what the call wants, in order. A provider that does not read is a further input.
    fn perform(&mut self) {
        let mut stalled = false;
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            stalled |= self.act(action).is_err();
        }
        self.actions = actions;
        if stalled && self.assistant.outbox().is_some() {
            tracing::warn!("the provider does not read");
            self.assistant_gone(EndReason::AssistantLost);
        }
    }

    fn act(&mut self, action: Action) -> Result<(), Stalled> {
        match action {
            Action::SendToAssistant(frame) => {
                if let Some(outbox) = self.assistant.outbox() {
                    outbox.media(frame);
                }
            }
            Action::PlayToCaller(frame) => {
                // Silence that only carries a background sound is no first audio.
                if frame != Frame::SILENCE && !std::mem::replace(&mut self.played, true) {
                    self.bridge.metrics.first_audio.observe(self.now().as_secs_f64());
                }
                self.bridge.metrics.played_frames.inc();
                let frame = self.enhanced(frame);
                if let Some(recorder) = &mut self.recorder {
                    recorder.play(&frame);
                }
                self.to_caller.media(Media::Frame(frame));
            }
            Action::MarkCaller(mark) => self.to_caller.media(Media::Mark(mark)),
            Action::ClearCaller => {
                self.to_caller.discard_media();
                if let Some(recorder) = &mut self.recorder {
                    recorder.clear();
                }
                // A full ring means that Twilio reads nothing; the media watchdog ends such a call.
                let _ = self.to_caller.control(Clear);
            }
            Action::RunTool { id, name, arguments } => {
                let (call, tenant) = (self.plan.call.clone(), self.plan.tenant.clone());
                let answer = self.bridge.tools.run(ToolRequest { call, tenant, name, arguments });
                self.tools.spawn(async move { (id, answer.await) });
            }
            Action::Record(event) => self.record(event),
            Action::CloseAssistant => {
                if let Some(outbox) = self.assistant.outbox() {
                    outbox.close(1000, "");
                }
            }
            Action::CloseCaller => self.to_caller.close(1000, ""),
            other => {
                if let Assistant::Connected { outbox, .. } = &self.assistant {
                    return self.mapper.perform(&other, outbox);
                }
            }
        }
        Ok(())
    }

    fn enhanced(&mut self, frame: Frame) -> Frame {
        if self.downlink.is_empty() {
            return frame;
        }
        let codes = self.downlink.process(&frame).map(ulaw::encode);
        Frame::from_ulaw(&codes)
    }

    fn record(&mut self, event: Event) {
        self.bridge.metrics.event(&event);
        tracing::debug!(?event, "recorded");
        let ended = if let Event::Ended { reason, .. } = event { Some(reason) } else { None };
        self.bridge.journal.record(self.fact(Fact::Call(event)));
        if let Some(reason) = ended {
            tracing::info!(%reason, "the stream has ended");
            self.seat.end(reason);
        }
    }

    fn count_dropped<P: Printer>(&self, towards: &'static str, outbox: &Outbox<P>) {
        self.bridge.metrics.frames_dropped.get_or_create(&DropLabels { towards }).inc_by(outbox.dropped());
    }

    fn fact(&self, fact: Fact) -> CallFact {
        CallFact { call: self.plan.call.clone(), tenant: self.plan.tenant.clone(), epoch: self.plan.epoch, fact }
    }

    /// Closes both legs together: what is queued goes out, both close handshakes finish, within a bound.
    async fn leave(mut self) {
        self.count_dropped("caller", &self.to_caller);
        if let Some(outbox) = self.assistant.outbox() {
            self.count_dropped("assistant", outbox);
        }
        self.tools.abort_all();
        let closing = async {
            while self.writers.join_next().await.is_some() {}
            // Unread messages would turn the close into a reset, and the peer would never see its code.
            let caller = async { while let Some(Ok(_)) = self.caller.next().await {} };
            let assistant = async {
                if let Assistant::Connected { read, .. } = &mut self.assistant {
                    while let Some(Ok(_)) = read.next().await {}
                }
            };
            futures::future::join(caller, assistant).await;
        };
        let _ = timeout(limits::CLOSE_TIMEOUT, closing).await;
        if let Some(recorder) = self.recorder.take()
            && let Some(Recording { path, length, sha256 }) = recorder.finish().await
        {
            self.bridge.journal.record(self.fact(Fact::Recorded { path, length, sha256: Some(sha256) }));
        }
    }
}
