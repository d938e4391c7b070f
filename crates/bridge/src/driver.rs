//! One task per call: reads both sockets, asks the [`Call`] what to do, does it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use call::{Action, Call, EndReason, Event, Input};
use futures::StreamExt as _;
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
use crate::directory::{Command, LiveControl, Order, Performed, Seat};
use crate::history::History;
use crate::limits;
use crate::metrics::{DropLabels, PeerLabels};
use crate::net::DialError;
use crate::plan::{CallFact, CallPlan, Fact, HistoryItem, ToolAnswer, ToolRequest};
use crate::record::{Recorder, Recording};
use crate::ringing::{Prepared, Ringing};
use crate::session::{self, Opening, Over, Session};
use crate::twilio::{Clear, Media, TwilioPrinter, parse_mark};
use crate::writer::{Outbox, Stalled, writer};

pub(crate) struct Driver<S> {
    bridge: Arc<Bridge>,
    plan: CallPlan,
    seat: Seat,
    started: Instant,
    call: Call,
    actions: Vec<Action>,
    caller: SplitStream<WebSocketStream<S>>,
    to_caller: Outbox<TwilioPrinter>,
    assistant: Assistant,
    /// Sessions begun in this stream.
    sessions: u64,
    /// What a further session would have to know.
    history: History,
    recorder: Option<Recorder>,
    tools: JoinSet<(String, Result<ToolAnswer, String>)>,
    writers: JoinSet<()>,
    /// Sessions that are being closed.
    closing: JoinSet<()>,
    allowance: Allowance,
    caller_faults: u32,
    /// Orders from outside that were performed, newest last.
    performed: VecDeque<String>,
    audio: Vec<u8>,
    played: bool,
    /// What the caller hears goes through this.
    downlink: Chain,
}

/// The assistant's side of the call.
enum Assistant {
    Opening(Opening),
    Open(Box<Session>),
    Gone,
}

enum FromAssistant {
    Opened(Result<Box<Session>, DialError>),
    Message(Option<Result<Message, Error>>),
}

impl Assistant {
    /// Safe to drop at any time: nothing is lost between two polls.
    async fn next(&mut self) -> FromAssistant {
        match self {
            Self::Opening(opening) => FromAssistant::Opened(opening.await),
            Self::Open(session) => FromAssistant::Message(session.next().await),
            Self::Gone => std::future::pending().await,
        }
    }
}

/// Orders from outside whose ids are remembered: each is performed once.
const ORDERS_MAX: usize = 64;

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
        Self {
            started: Instant::now(),
            call: Call::new(plan.config.clone()),
            actions: Vec::with_capacity(32),
            caller,
            to_caller,
            assistant: Assistant::Gone,
            sessions: 0,
            history: History::new(std::mem::take(&mut plan.history)),
            recorder: plan.recording.as_deref().map(Recorder::start),
            tools: JoinSet::new(),
            writers,
            closing: JoinSet::new(),
            allowance: Allowance { left: f64::from(limits::CALLER_MESSAGES_BURST), at: Duration::ZERO },
            caller_faults: 0,
            performed: VecDeque::new(),
            audio: Vec::with_capacity(256),
            played: false,
            downlink: plan.sound.downlink(),
            bridge,
            plan,
            seat,
        }
    }

    /// Runs the call to its end and leaves nothing behind.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, ringing: Option<Ringing>) {
        tracing::info!("the stream has started");
        if let Some(path) = self.plan.recording.clone() {
            // Told at once: after a crash the file is there, and somebody must know of it.
            self.bridge.journal.record(self.fact(Fact::Recorded { path, length: Duration::ZERO, sha256: None }));
        }
        self.meet(ringing).await;
        self.input(Input::Tick);
        let timer = sleep_until(self.started);
        tokio::pin!(timer);
        while !self.call.is_ended() {
            let deadline = self.call.deadline().map_or(self.started + session::LOOK_EVERY, |(at, _)| self.started + at);
            let deadline = match &self.assistant {
                Assistant::Open(session) => deadline.min(session.next_check()),
                Assistant::Opening(_) | Assistant::Gone => deadline,
            };
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
            self.notice_dead_sockets();
        }
        self.leave().await;
    }

    /// Takes over the session that was opened while it rang, or opens one.
    async fn meet(&mut self, ringing: Option<Ringing>) {
        let prepared = match ringing {
            Some(ringing) => ringing.claim().await,
            None => None,
        };
        match prepared {
            Some(Prepared::Opening(opening)) => {
                self.sessions = 1;
                self.assistant = Assistant::Opening(opening);
            }
            Some(Prepared::Open(session, early)) => {
                self.sessions = 1;
                self.assistant = Assistant::Open(session);
                early.iter().for_each(|it| self.input(it.input()));
            }
            None => self.open_session(0),
        }
    }

    fn open_session(&mut self, candidate: usize) {
        let mut history = self.history.items();
        history.extend(self.call.words_to_come().map(|it| HistoryItem::Assistant(it.to_owned())));
        self.assistant = Assistant::Opening(session::open(self.bridge.clone(), &self.plan, candidate, self.sessions, history));
        self.sessions += 1;
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
            Command::Order(order) => self.order(order),
        }
    }

    /// Performs an order from outside, once.
    fn order(&mut self, Order { id, control, done }: Order) {
        if self.performed.contains(&id) {
            let _ = done.send(Performed::Before);
            return;
        }
        if self.performed.len() == ORDERS_MAX {
            self.performed.pop_front();
        }
        self.performed.push_back(id);
        match &control {
            LiveControl::Record(on) => {
                if let Some(recorder) = &mut self.recorder {
                    recorder.pause(!on);
                }
                self.record(Event::Controlled { what: if *on { "record" } else { "pause_recording" } });
            }
            other => {
                if let Some(control) = other.as_control() {
                    self.input(Input::Control(control));
                }
            }
        }
        let _ = done.send(Performed::Now);
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
            FromAssistant::Opened(Ok(mut session)) => {
                let begun = session.begin();
                self.assistant = Assistant::Open(session);
                if let Err(Over(reason)) = begun {
                    self.assistant_gone(reason);
                }
            }
            FromAssistant::Opened(Err(error)) => {
                tracing::error!(%error, "the assistant cannot be reached");
                self.assistant_gone(error.reason());
            }
            FromAssistant::Message(message) => self.assistant_message(message),
        }
    }

    fn assistant_message(&mut self, message: Option<Result<Message, Error>>) {
        let now = self.now();
        let Assistant::Open(session) = &mut self.assistant else { return };
        let (call, actions) = (&mut self.call, &mut self.actions);
        let received = session.receive(message, &mut |input| call.handle(now, input, actions));
        self.perform();
        self.bridge.metrics.assistant_to_caller.observe((self.now() - now).as_secs_f64());
        if let Err(Over(reason)) = received {
            self.assistant_gone(reason);
        }
    }

    /// The provider's session is over: its socket is closed, the call decides what follows.
    fn assistant_gone(&mut self, reason: EndReason) {
        self.close_session();
        self.input(Input::AssistantEnded(reason));
    }

    /// Lets go of the session or of the attempt to open one.
    fn close_session(&mut self) {
        if let Assistant::Open(session) = std::mem::replace(&mut self.assistant, Assistant::Gone) {
            self.count_dropped("assistant", session.dropped());
            self.closing.spawn(session.close());
        }
    }

    fn tool_answered(&mut self, answered: Option<(String, Result<ToolAnswer, String>)>) {
        // A tool that panicked stays unanswered; the call's own deadline answers for it.
        if let Some((id, answer)) = answered {
            let failed = answer.is_err();
            let answer = answer.unwrap_or_else(ToolAnswer::from);
            let effect = answer.effect.as_ref().map(|it| it.as_effect());
            self.input(Input::ToolFinished { id: &id, output: &answer.output, failed, effect });
        }
    }

    /// A writer that ended without being told to has lost its peer; a socket may be half open.
    fn notice_dead_sockets(&mut self) {
        if self.call.is_ended() {
            return;
        }
        if self.to_caller.is_gone() {
            self.input(Input::CallerEnded(EndReason::CallerLost));
        } else if let Assistant::Open(session) = &mut self.assistant
            && session.is_dead(Instant::now())
        {
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
        if stalled && matches!(self.assistant, Assistant::Open(_)) {
            tracing::warn!("the provider does not read");
            self.assistant_gone(EndReason::AssistantLost);
        }
    }

    fn act(&mut self, action: Action) -> Result<(), Stalled> {
        match action {
            Action::SendToAssistant(frame) => {
                if let Assistant::Open(session) = &self.assistant {
                    session.hear(frame);
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
                let answer = self.bridge.tools.run(ToolRequest { call, tenant, id: id.clone(), name, arguments });
                self.tools.spawn(async move { (id, answer.await) });
            }
            Action::Record(event) => self.record(event),
            Action::ConnectAssistant { candidate } => {
                self.close_session();
                self.open_session(candidate);
            }
            Action::CloseAssistant => self.close_session(),
            Action::CloseCaller => self.to_caller.close(1000, ""),
            other => {
                if let Assistant::Open(session) = &mut self.assistant {
                    return session.perform(&other);
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
        let ms = |it: &Duration| it.as_millis() as u64;
        match &event {
            Event::CallerSaid { text, start, .. } => self.history.caller_said(ms(start), text),
            Event::AssistantSaid { text, start, .. } => self.history.assistant_said(ms(start), text),
            Event::ToolCalled { id, name, arguments } => self.history.tool_called(id, name, arguments),
            Event::ToolFinished { id, output, .. } => self.history.tool_finished(id, output),
            _ => (),
        }
        let ended = if let Event::Ended { reason, .. } = event { Some(reason) } else { None };
        self.bridge.journal.record(self.fact(Fact::Call(event)));
        if let Some(reason) = ended {
            tracing::info!(%reason, "the stream has ended");
            self.seat.end(reason);
        }
    }

    fn count_dropped(&self, towards: &'static str, dropped: u64) {
        self.bridge.metrics.frames_dropped.get_or_create(&DropLabels { towards }).inc_by(dropped);
    }

    fn fact(&self, fact: Fact) -> CallFact {
        CallFact { call: self.plan.call.clone(), tenant: self.plan.tenant.clone(), epoch: self.plan.epoch, fact }
    }

    /// Closes both legs together: what is queued goes out, both close handshakes finish, within a bound.
    async fn leave(mut self) {
        self.count_dropped("caller", self.to_caller.dropped());
        self.close_session();
        self.tools.abort_all();
        let closing = async {
            while self.writers.join_next().await.is_some() {}
            // Unread messages would turn the close into a reset, and the peer would never see its code.
            let caller = async { while let Some(Ok(_)) = self.caller.next().await {} };
            let assistant = async { while self.closing.join_next().await.is_some() {} };
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
