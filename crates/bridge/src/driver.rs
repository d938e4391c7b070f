//! One call: reads and writes both sockets, asks the [`Call`] what to do, does it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use call::{Action, Call, EndReason, Event, Input};
use futures::FutureExt as _;
use media::Frame;
use media::enhance::Chain;
use media::g711::ulaw;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use wire::twilio::FromTwilio;
use wire::websocket::{Message, NORMAL_CLOSURE, POLICY_VIOLATION, Role};

use crate::accept::Bridge;
use crate::directory::{Command, LiveControl, Order, Performed, Seat};
use crate::exchange::{Place, came, looks_at, looks_next_at};
use crate::history::History;
use crate::limits;
use crate::metrics::{DropLabels, PeerLabels};
use crate::net::DialError;
use crate::outbox::{Outbox, Stalled};
use crate::plan::{CallFact, CallPlan, Fact, HistoryItem, ToolAnswer, ToolRequest};
use crate::record::{Recorder, Recording};
use crate::ringing::{Prepared, Ringing};
use crate::session::{self, Opening, Over, Session};
use crate::socket::{Lost, Socket};
use crate::spare::{self, Use};
use crate::twilio::{Clear, Media, TwilioPrinter, parse_mark};
use crate::wake::{Sources, Wakers};
use crate::working_set::WorkingSet;

pub(crate) struct Driver {
    bridge: Arc<Bridge>,
    /// Seldom looked at, and out of the way of what every frame looks at.
    plan: Box<CallPlan>,
    seat: Seat,
    place: Place,
    started: Instant,
    /// When the call was last polled, since the start: the time of everything it then does.
    now: Duration,
    call: Call,
    actions: Vec<Action>,
    to_caller: Outbox<TwilioPrinter>,
    assistant: Assistant,
    /// Sessions begun in this stream.
    sessions: u64,
    /// What a further session would have to know.
    history: History,
    /// Elsewhere: most calls have none.
    recorder: Option<Box<Recorder>>,
    tools: JoinSet<ToolAnswered>,
    /// Sessions that are being closed.
    closing: JoinSet<()>,
    allowance: Allowance,
    caller_faults: u32,
    /// The code to close a caller's socket with that broke its protocol, and is not listened to any more.
    dismissed: Option<u16>,
    /// Orders from outside that were performed, newest last.
    performed: VecDeque<String>,
    /// Times woken by the caller's socket.
    turns: u32,
    played: bool,
    /// What the caller hears goes through this.
    downlink: Chain,
    /// What the timer is set to, until it has rung.
    alarm: Option<Instant>,
    /// What may have something: it has told so, or had something last time, or was never looked at.
    look: Sources,
}

/// A tool's id, and what it said.
type ToolAnswered = (String, Result<ToolAnswer, String>);

/// The assistant's side of the call.
enum Assistant {
    Opening(Opening),
    Open(Box<Session>),
    Gone,
}

/// What has happened; several things at a time, so that no side can keep the others waiting.
#[derive(Default)]
struct Happened {
    caller: Option<Result<(), Lost>>,
    assistant: Option<Result<(), Lost>>,
    timer: bool,
    seldom: Option<Box<Seldom>>,
}

/// What happens a few times in a call; boxed, because what happens with every frame is moved about.
enum Seldom {
    Command(Command),
    Opened(Result<Box<Session>, DialError>),
    /// A tool that panicked stays unanswered; the call's own deadline answers for it.
    Tool(Option<ToolAnswered>),
}

impl Happened {
    fn anything(&self) -> bool {
        self.timer || self.caller.is_some() || self.assistant.is_some() || self.seldom.is_some()
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

impl Driver {
    /// Boxed: a future would hold it several times over.
    pub(crate) fn new(bridge: Arc<Bridge>, mut plan: CallPlan, stream_sid: String, seat: Seat, place: Place) -> Box<Self> {
        Box::new(Self {
            started: Instant::now(),
            now: Duration::ZERO,
            call: Call::new(plan.config.clone()),
            actions: Vec::new(),
            to_caller: Outbox::new(TwilioPrinter::new(stream_sid), Role::Server, limits::CALLER_RING),
            assistant: Assistant::Gone,
            sessions: 0,
            history: History::new(std::mem::take(&mut plan.history)),
            recorder: plan.recording.as_deref().map(Recorder::start).map(Box::new),
            tools: JoinSet::new(),
            closing: JoinSet::new(),
            allowance: Allowance { left: f64::from(limits::CALLER_MESSAGES_BURST), at: Duration::ZERO },
            caller_faults: 0,
            dismissed: None,
            performed: VecDeque::new(),
            turns: 0,
            played: false,
            downlink: plan.sound.downlink(),
            alarm: None,
            look: Sources::NONE,
            bridge,
            plan: Box::new(plan),
            seat,
            place,
        })
    }

    /// Runs the call to its end and leaves nothing behind.
    // No `async fn`: its future would hold what it is given twice.
    #[allow(clippy::manual_async_fn)]
    pub(crate) fn run(
        mut self: Box<Self>,
        mut caller: Socket,
        mut commands: mpsc::Receiver<Command>,
        ringing: Option<Ringing>,
    ) -> impl Future<Output = ()> + Send {
        async move {
            tracing::info!("the stream has started");
            if let Some(path) = self.plan.recording.clone() {
                // Told at once: after a crash the file is there, and somebody must know of it.
                self.bridge.journal.record(self.fact(Fact::Recorded { path, length: Duration::ZERO, sha256: None }));
            }
            // On the heap, as its end: the future of a call that goes on is half as large without them.
            Box::pin(self.meet(ringing)).await;
            self.place.watch(caller.io(), Sources::CALLER);
            self.now = self.started.elapsed();
            self.input(Input::Tick);
            // What was read behind `start`.
            self.listen(&mut caller);
            self.tell_what_is_looked_at(&mut caller);
            let mut timer = pin!(sleep_until(self.started));
            let wakers = poll_fn(|cx| Poll::Ready(Wakers::new(cx.waker()))).await;
            self.look = Sources::ALL;
            let mut row = 0;
            while !self.call.is_ended() {
                let deadline = self.deadline();
                // Deadlines move on with every frame. A timer that rings too early is set again then, ten times a second instead
                // of a hundred: setting it takes the clock's lock.
                if self.alarm.is_none_or(|it| deadline < it) {
                    timer.as_mut().reset(deadline);
                    self.alarm = Some(deadline);
                    self.look |= Sources::TIMER;
                }
                let happened = poll_fn(|_| {
                    let polled = self.poll(&wakers, &mut caller, &mut commands, timer.as_mut());
                    row = if polled.is_pending() { 0 } else { row + 1 };
                    polled
                });
                let happened = happened.await;
                self.now = self.started.elapsed();
                let has_changed = happened.seldom.is_some();
                self.handle(happened, &mut caller);
                if has_changed {
                    self.tell_what_is_looked_at(&mut caller);
                }
                if row == limits::HAPPENINGS_IN_A_ROW {
                    yield_now().await;
                    row = 0;
                }
            }
            Box::pin(self.leave(caller)).await;
        }
    }

    /// Tells its exchange what is looked at whenever something comes.
    fn tell_what_is_looked_at(&mut self, caller: &mut Socket) {
        let mut set = WorkingSet::default();
        set.add(self);
        set.add(self.to_caller.printer().stream_sid());
        caller.looks_at(&mut set);
        if let Assistant::Open(session) = &mut self.assistant {
            session.looks_at(&mut set);
        }
        looks_at(set);
    }

    /// When the call, or a look at the sockets, is due.
    fn deadline(&self) -> Instant {
        let due = self.call.deadline().map_or(self.started + session::LOOK_EVERY, |(at, _)| self.started + at);
        let check = match &self.assistant {
            Assistant::Open(session) => Some(session.next_check()),
            Assistant::Opening(_) | Assistant::Gone => None,
        };
        [check, self.to_caller.patience()].into_iter().flatten().fold(due, Instant::min)
    }

    /// Writes what waits, then looks at what may have something; what has nothing is left alone until it tells.
    fn poll(
        &mut self,
        wakers: &Wakers,
        caller: &mut Socket,
        commands: &mut mpsc::Receiver<Command>,
        timer: Pin<&mut Sleep>,
    ) -> Poll<Happened> {
        let came = came();
        self.look |= came;
        if came.has(Sources::WOKEN) {
            self.look |= wakers.raised();
        }
        if came.has(Sources::ENDING) {
            caller.ends();
            if let Assistant::Open(session) = &mut self.assistant {
                session.socket().ends();
            }
        }
        if came.has(Sources::UNSENT) {
            caller.hold_back();
            if let Assistant::Open(session) = &mut self.assistant {
                session.socket().hold_back();
            }
        }
        let mut happened = Happened::default();
        let cx = &mut Context::from_waker(wakers.of(Sources::CALLER));
        if let Err(lost) = caller.poll_send(&mut self.to_caller, cx) {
            happened.caller = Some(Err(lost));
        } else if self.look.has(Sources::CALLER) {
            happened.caller = self.seen(Sources::CALLER, caller.poll_receive(cx));
        }
        if let Assistant::Open(session) = &mut self.assistant {
            let cx = &mut Context::from_waker(wakers.of(Sources::ASSISTANT));
            if let Err(lost) = session.poll_send(cx) {
                happened.assistant = Some(Err(lost));
            } else if self.look.has(Sources::ASSISTANT) {
                let read = session.poll_receive(cx);
                happened.assistant = self.seen(Sources::ASSISTANT, read);
            }
        }
        if self.look.has(Sources::TIMER) {
            let rang = timer.poll(&mut Context::from_waker(wakers.of(Sources::TIMER)));
            happened.timer = self.seen(Sources::TIMER, rang).is_some();
            if happened.timer {
                self.alarm = None;
            }
        }
        if self.look.has(Sources::SELDOM) {
            let seldom = self.poll_seldom(&mut Context::from_waker(wakers.of(Sources::SELDOM)), commands);
            happened.seldom = self.seen(Sources::SELDOM, seldom).map(Box::new);
        }
        if happened.anything() {
            return Poll::Ready(happened);
        }
        // Frames are kept, and levels remembered, behind those that came before: somewhere else in each turn.
        looks_next_at(WorkingSet::of_places(self.call.looks_next_at()));
        Poll::Pending
    }

    /// What had nothing need not be looked at again.
    fn seen<T>(&mut self, source: Sources, found: Poll<T>) -> Option<T> {
        match found {
            Poll::Ready(found) => Some(found),
            Poll::Pending => {
                self.look = self.look.without(source);
                None
            }
        }
    }

    fn poll_seldom(&mut self, cx: &mut Context<'_>, commands: &mut mpsc::Receiver<Command>) -> Poll<Seldom> {
        if let Poll::Ready(Some(command)) = commands.poll_recv(cx) {
            return Poll::Ready(Seldom::Command(command));
        }
        if let Assistant::Opening(opening) = &mut self.assistant
            && let Poll::Ready(opened) = opening.poll_unpin(cx)
        {
            return Poll::Ready(Seldom::Opened(opened));
        }
        if !self.tools.is_empty()
            && let Poll::Ready(Some(answered)) = self.tools.poll_join_next(cx)
        {
            return Poll::Ready(Seldom::Tool(answered.ok()));
        }
        Poll::Pending
    }

    fn handle(&mut self, happened: Happened, caller: &mut Socket) {
        self.actions = spare::take_actions();
        match happened.caller {
            Some(Ok(())) => self.listen(caller),
            Some(Err(lost)) => {
                tracing::debug!(%lost, "the caller's socket was lost");
                self.input(Input::CallerEnded(EndReason::CallerLost));
            }
            None => (),
        }
        match happened.assistant {
            Some(Ok(())) => self.assistant_speaks(),
            Some(Err(lost)) => {
                if let Assistant::Open(session) = &self.assistant {
                    let Over(reason) = session.lost(&lost);
                    self.assistant_gone(reason);
                }
            }
            None => (),
        }
        if let Some(seldom) = happened.seldom {
            match *seldom {
                Seldom::Command(command) => self.command(command),
                Seldom::Opened(Ok(session)) => self.session_opened(session),
                Seldom::Opened(Err(error)) => {
                    tracing::error!(%error, "the assistant cannot be reached");
                    self.assistant_gone(error.reason());
                }
                Seldom::Tool(Some(answered)) => self.tool_answered(answered),
                Seldom::Tool(None) => (),
            }
        }
        if happened.timer {
            self.input(Input::Tick);
            self.notice_dead_session();
        }
        spare::give_actions(std::mem::take(&mut self.actions));
    }

    /// Takes over the session that was opened while it rang, or opens one.
    async fn meet(&mut self, ringing: Option<Ringing>) {
        let prepared = match ringing {
            Some(ringing) => ringing.claim().await,
            None => None,
        };
        self.now = self.started.elapsed();
        match prepared {
            Some(Prepared::Opening(opening)) => {
                self.sessions = 1;
                self.assistant = Assistant::Opening(opening);
            }
            Some(Prepared::Open(session, early)) => {
                self.sessions = 1;
                self.connected(session);
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
        self.look |= Sources::SELDOM;
    }

    fn input(&mut self, input: Input<'_>) {
        self.call.handle(self.now, input, &mut self.actions);
        self.perform();
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Drain => self.input(Input::Drain),
            Command::Supersede => self.input(Input::CallerEnded(EndReason::Superseded)),
            Command::Order(order) => self.order(*order),
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

    /// Takes in what was read from the caller's socket.
    fn listen(&mut self, caller: &mut Socket) {
        while !self.call.is_ended() {
            match caller.message() {
                Ok(Some(message)) => self.caller_message(message),
                Ok(None) => {
                    caller.rest();
                    break;
                }
                Err(violation) => {
                    self.caller_fault(&violation.to_string());
                    self.dismissed = Some(violation.close_code());
                    return self.input(Input::CallerEnded(EndReason::CallerLost));
                }
            }
        }
        self.turns = self.turns.wrapping_add(1);
        if self.is_timed() {
            self.bridge.metrics.caller_to_assistant.observe((self.started.elapsed() - self.now).as_secs_f64());
        }
    }

    fn caller_message(&mut self, message: Message<'_>) {
        let text = match message {
            Message::Text(text) => text,
            Message::Ping(content) => return self.to_caller.pong(content),
            Message::Pong => return,
            Message::Binary(_) => return self.caller_fault("a binary message"),
            Message::Close(..) => return self.input(Input::CallerEnded(EndReason::CallerLost)),
        };
        if !self.allowance.take(self.now) {
            tracing::warn!("the caller's socket sends more than any telephone does");
            self.dismissed = Some(POLICY_VIOLATION);
            return self.input(Input::CallerEnded(EndReason::CallerMisbehaved));
        }
        match FromTwilio::parse(text) {
            Ok(FromTwilio::Media { payload, .. }) => {
                let mut audio = spare::take(Use::Decoded);
                if wire::audio::decode(&payload, &mut audio).is_err() {
                    return self.caller_fault("audio that is not base64");
                }
                for frame in Frame::cut(&audio) {
                    self.bridge.metrics.caller_frames.inc();
                    if let Some(recorder) = &mut self.recorder {
                        recorder.caller(&frame);
                    }
                    self.call.handle(self.now, Input::CallerAudio(&frame), &mut self.actions);
                }
                spare::give(Use::Decoded, audio);
                self.perform();
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
            self.dismissed = Some(POLICY_VIOLATION);
            self.input(Input::CallerEnded(EndReason::CallerMisbehaved));
        }
    }

    fn session_opened(&mut self, mut session: Box<Session>) {
        let begun = session.begin();
        self.connected(session);
        if let Err(Over(reason)) = begun {
            self.assistant_gone(reason);
        }
    }

    fn connected(&mut self, mut session: Box<Session>) {
        self.place.watch(session.socket().io(), Sources::ASSISTANT);
        self.assistant = Assistant::Open(session);
        self.look |= Sources::ASSISTANT;
    }

    /// Takes in what was read from the provider's socket.
    fn assistant_speaks(&mut self) {
        let (now, at) = (self.now, self.started + self.now);
        while let Assistant::Open(session) = &mut self.assistant {
            let (call, actions) = (&mut self.call, &mut self.actions);
            let taken = session.take(at, &mut |input| call.handle(now, input, actions));
            self.perform();
            match taken {
                Ok(true) => (),
                Ok(false) => break,
                Err(Over(reason)) => return self.assistant_gone(reason),
            }
        }
        if self.is_timed() {
            self.bridge.metrics.assistant_to_caller.observe((self.started.elapsed() - self.now).as_secs_f64());
        }
    }

    /// One turn in sixteen is timed: a clock and a lock cost a tenth of what they would measure.
    fn is_timed(&self) -> bool {
        self.turns.is_multiple_of(16)
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

    fn tool_answered(&mut self, (id, answer): ToolAnswered) {
        let failed = answer.is_err();
        let answer = answer.unwrap_or_else(ToolAnswer::from);
        let effect = answer.effect.as_ref().map(|it| it.as_effect());
        self.input(Input::ToolFinished { id: &id, output: &answer.output, failed, effect });
    }

    /// A provider's socket may be half open.
    fn notice_dead_session(&mut self) {
        if let Assistant::Open(session) = &mut self.assistant
            && !self.call.is_ended()
            && session.is_dead(self.started + self.now)
        {
            self.assistant_gone(EndReason::AssistantLost);
        }
    }

    /// Does what the call wants, in order. A provider that does not read is a further input.
    fn perform(&mut self) {
        let mut stalled = false;
        let mut actions = std::mem::take(&mut self.actions);
        // By reference: most of them are frames.
        for action in &actions {
            stalled |= self.act(action).is_err();
        }
        actions.clear();
        self.actions = actions;
        if stalled && matches!(self.assistant, Assistant::Open(_)) {
            tracing::warn!("the provider does not read");
            self.assistant_gone(EndReason::AssistantLost);
        }
    }

    fn act(&mut self, action: &Action) -> Result<(), Stalled> {
        match action {
            Action::SendToAssistant(frame) => {
                if let Assistant::Open(session) = &mut self.assistant {
                    session.hear(frame);
                }
            }
            Action::PlayToCaller(frame) => {
                // Silence that only carries a background sound is no first audio.
                if *frame != Frame::SILENCE && !std::mem::replace(&mut self.played, true) {
                    self.bridge.metrics.first_audio.observe(self.now.as_secs_f64());
                }
                self.bridge.metrics.played_frames.inc();
                let enhanced;
                let frame = if self.downlink.is_empty() {
                    frame
                } else {
                    enhanced = Frame::from_ulaw(&self.downlink.process(frame).map(ulaw::encode));
                    &enhanced
                };
                if let Some(recorder) = &mut self.recorder {
                    recorder.play(frame);
                }
                self.to_caller.media(Media::Frame(*frame));
            }
            Action::MarkCaller(mark) => self.to_caller.media(Media::Mark(*mark)),
            Action::ClearCaller => {
                self.to_caller.discard_media();
                if let Some(recorder) = &mut self.recorder {
                    recorder.clear();
                }
                // A full ring means that Twilio reads nothing; the media watchdog ends such a call.
                let _ = self.to_caller.control(Clear);
            }
            Action::RunTool { id, name, arguments } => {
                let (call, tenant, id) = (self.plan.call.clone(), self.plan.tenant.clone(), id.clone());
                let (name, arguments) = (name.clone(), arguments.clone());
                let answer = self.bridge.tools.run(ToolRequest { call, tenant, id: id.clone(), name, arguments });
                self.tools.spawn(async move { (id, answer.await) });
                self.look |= Sources::SELDOM;
            }
            Action::Record(event) => self.record(event.clone()),
            Action::ConnectAssistant { candidate } => {
                self.close_session();
                self.open_session(*candidate);
            }
            Action::CloseAssistant => self.close_session(),
            Action::CloseCaller => self.to_caller.close(self.dismissed.unwrap_or(NORMAL_CLOSURE), ""),
            other => {
                if let Assistant::Open(session) = &mut self.assistant {
                    return session.perform(other);
                }
            }
        }
        Ok(())
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
    async fn leave(mut self: Box<Self>, mut caller: Socket) {
        self.count_dropped("caller", self.to_caller.dropped());
        self.close_session();
        self.tools.abort_all();
        caller.leave_exchange();
        let caller = async {
            match self.dismissed {
                Some(code) => _ = timeout(limits::DISMISSAL, caller.dismiss(&mut self.to_caller, code)).await,
                None => caller.close(&mut self.to_caller, NORMAL_CLOSURE, "").await,
            }
        };
        let assistant = async { while self.closing.join_next().await.is_some() {} };
        let _ = timeout(limits::CLOSE_TIMEOUT, futures::future::join(caller, assistant)).await;
        if let Some(recorder) = self.recorder.take()
            && let Some(Recording { path, length, sha256 }) = recorder.finish().await
        {
            self.bridge.journal.record(self.fact(Fact::Recorded { path, length, sha256: Some(sha256) }));
        }
    }
}
