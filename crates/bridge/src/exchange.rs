//! Where calls run: a loop that waits for the sockets of many calls and polls the call whose socket has something.
//!
//! To the runtime, hundreds of calls are one task here. A task, a readiness and a waker of each call would be as many cold
//! lines of memory on the way of a frame; decision 0025 has what that costs. There is an exchange for each of the runtime's
//! workers; a call stays where it began.
//!
//! What has come for several calls is read before the first of them decides, and what they write is sent when the last has
//! ([`batch`], decisions 0027 and 0029).

use std::cell::Cell;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use std::{io, mem};

use futures::task::AtomicWaker;
use futures::{FutureExt as _, TryFutureExt as _};
use mio::{Events, Token};
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{unconstrained, yield_now};
use tokio_util::task::AbortOnDropHandle;

use crate::batch;
use crate::line::Lines;
use crate::net::BoxIo;
use crate::tcp::Tcp;
use crate::wake::Sources;
use crate::working_set::{WorkingSet, prefetch};

/// Calls that have their turn together, one to two milliseconds of work: then the runtime's other tasks have theirs.
const ROW: usize = 128;

thread_local! {
    /// What has come for the call that is being polled.
    static CAME: Cell<Sources> = const { Cell::new(Sources::NONE) };
    /// What the call that is being polled has said to look at.
    static LOOKED_AT: Cell<Option<WorkingSet>> = const { Cell::new(None) };
    /// Same for its next turn alone.
    static LOOKED_AT_NEXT: Cell<Option<WorkingSet>> = const { Cell::new(None) };
    /// Polls of calls so far.
    static POLLS: Cell<u64> = const { Cell::new(0) };
}

/// What has come for the call that is being polled, told once.
pub(crate) fn came() -> Sources {
    CAME.take()
}

/// The call that is being polled tells what it looks at whenever something comes for it, until it tells otherwise.
pub(crate) fn looks_at(set: WorkingSet) {
    LOOKED_AT.set(Some(set));
}

/// The call that is being polled tells what else it looks at in its next turn, at the end of each.
pub(crate) fn looks_next_at(set: WorkingSet) {
    LOOKED_AT_NEXT.set(Some(set));
}

/// Which poll of a call this is. Sockets are looked at between two: what comes from now on is told of in a later one.
pub(crate) fn poll_number() -> u64 {
    POLLS.get()
}

/// Runs calls. Its loops end when it is dropped.
pub(crate) struct Exchanges(Vec<Exchange>);

struct Exchange {
    door: Arc<Door>,
    _attendant: AbortOnDropHandle<()>,
}

/// The call panicked, or the loop is gone with its runtime.
#[derive(Debug)]
pub(crate) struct Broken;

/// A call is made where it runs.
type Make = Box<dyn FnOnce(Place) -> Running + Send>;
type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Through it, others reach a loop.
#[derive(Default)]
struct Door {
    left: Mutex<Left>,
    /// Something was left: most turns of a loop find nothing, and need no lock to see it.
    has_left: AtomicBool,
    attendant: AtomicWaker,
    /// Calls that run here.
    calls: AtomicUsize,
}

/// What was left at the door.
#[derive(Default)]
struct Left {
    coming: Vec<Make>,
    /// Slots of calls that something else than their sockets has woken.
    woken: Vec<usize>,
}

impl Door {
    fn leave(&self, what: impl FnOnce(&mut Left)) {
        let mut left = self.lock();
        what(&mut left);
        self.has_left.store(true, Ordering::Release);
        drop(left);
        self.attendant.wake();
    }

    fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Acquire)
    }

    /// Takes what was left, and puts an empty list there.
    fn take(&self, lists: &mut Left) {
        if self.has_left() {
            let mut left = self.lock();
            self.has_left.store(false, Ordering::Release);
            mem::swap(lists, &mut left);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's place in an exchange.
pub(crate) struct Place {
    lines: Arc<Lines>,
    slot: usize,
}

impl Place {
    /// Lets the exchange watch a socket of the call, as far as it can: one in memory wakes by itself.
    pub(crate) fn watch(&self, io: &mut BoxIo, source: Sources) {
        if let Some(tcp) = Tcp::of(io) {
            tcp.hand_over(&self.lines, token(self.slot, source));
        }
    }
}

fn token(slot: usize, source: Sources) -> Token {
    Token(slot << 1 | usize::from(source == Sources::ASSISTANT))
}

/// Whose socket it is.
fn of(token: Token) -> (usize, Sources) {
    (token.0 >> 1, if token.0 & 1 == 1 { Sources::ASSISTANT } else { Sources::CALLER })
}

impl Exchanges {
    /// As many as the runtime has workers.
    ///
    /// # Panics
    /// Outside of a runtime, or when the process may open no more files.
    pub(crate) fn open() -> Self {
        Self((0..Handle::current().metrics().num_workers()).map(|_| Exchange::open()).collect())
    }

    /// Runs what `make` makes, in the exchange with the fewest calls, to its end. It keeps its waker for life, is polled when
    /// [`came`] has something for it or it was woken, and may be polled for nothing.
    ///
    /// # Errors
    /// [`Broken`]: the others go on.
    pub(crate) fn run<F, M>(&self, make: M) -> impl Future<Output = Result<(), Broken>> + use<F, M>
    where
        F: Future<Output = ()> + Send + 'static,
        M: FnOnce(Place) -> F + Send + 'static,
    {
        let (done, is_done) = oneshot::channel();
        // Whoever waits, and what runs, hold nothing of what it is made of.
        let make = |place| -> Running { Box::pin(make(place).map(|()| _ = done.send(()))) };
        self.fewest().receive(Box::new(make));
        is_done.map_err(|_| Broken)
    }

    fn fewest(&self) -> &Exchange {
        self.0.iter().min_by_key(|it| it.door.calls.load(Ordering::Relaxed)).expect("a runtime has a worker")
    }
}

impl Exchange {
    fn open() -> Self {
        let door = Arc::new(Door::default());
        let attendant = Attendant::new(door.clone()).expect("a process may wait for sockets");
        Self { door, _attendant: AbortOnDropHandle::new(tokio::spawn(unconstrained(attendant.run()))) }
    }

    fn receive(&self, make: Make) {
        self.door.calls.fetch_add(1, Ordering::Relaxed);
        self.door.leave(|it| it.coming.push(make));
    }
}

/// A call that runs.
struct Slot {
    call: Running,
    waker: Waker,
    woken: Arc<Woken>,
    /// What has come since it was polled.
    came: Sources,
    looks_at: WorkingSet,
    looks_next_at: WorkingSet,
}

/// The waker of a slot. One that outlives its call wakes the next in the slot for nothing.
struct Woken {
    slot: usize,
    /// It is noted at the door.
    noted: AtomicBool,
    door: Arc<Door>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.noted.swap(true, Ordering::AcqRel) {
            self.door.leave(|it| it.woken.push(self.slot));
        }
    }
}

/// The calls of an exchange.
struct Calls {
    slots: Slab<Slot>,
    lines: Arc<Lines>,
    /// Slots for which something has come.
    due: Vec<usize>,
    /// Slots of calls whose peers did not take all that was written.
    unsent: Vec<usize>,
}

impl Calls {
    fn new(lines: Lines) -> Self {
        Self { slots: Slab::new(), lines: Arc::new(lines), due: Vec::new(), unsent: Vec::new() }
    }

    fn note(&mut self, slot: usize, came: Sources) {
        if let Some(it) = self.slots.get_mut(slot) {
            if it.came == Sources::NONE {
                self.due.push(slot);
            }
            it.came |= came;
        }
    }

    /// Polls the calls that are due; returns how many are over.
    fn serve(&mut self) -> usize {
        let (mut due, mut over) = (mem::take(&mut self.due), 0);
        for slots in due.chunks(ROW) {
            self.read_ahead(slots);
            batch::open();
            over += slots.iter().filter(|it| self.poll(**it)).count();
            batch::send_out(|token| self.unsent.push(of(token).0));
        }
        due.clear();
        self.due = due;
        for slot in mem::take(&mut self.unsent) {
            self.note(slot, Sources::UNSENT);
        }
        over
    }

    fn read_ahead(&self, slots: &[usize]) {
        // Each call's memory is on its way while the kernel reads for it.
        let came = |slot: usize| {
            let it = self.slots.get(slot)?;
            prefetch(&*it.call);
            it.looks_at.prefetch();
            it.looks_next_at.prefetch();
            Some((slot, it.came))
        };
        let sources = |(slot, came): (usize, Sources)| {
            let has = move |source| came.has(source).then(|| token(slot, source));
            [Sources::CALLER, Sources::ASSISTANT].into_iter().filter_map(has)
        };
        batch::read_ahead(|tell| self.lines.each(slots.iter().filter_map(|it| came(*it)).flat_map(sources), tell));
    }

    /// Polls a call; tells whether it is over. A panic of its ends it, and nobody else notices.
    fn poll(&mut self, slot: usize) -> bool {
        let Some(it) = self.slots.get_mut(slot) else { return false };
        CAME.set(mem::take(&mut it.came));
        POLLS.set(POLLS.get() + 1);
        let (call, mut cx) = (it.call.as_mut(), Context::from_waker(&it.waker));
        let polled = catch_unwind(AssertUnwindSafe(|| call.poll(&mut cx)));
        batch::keep_unread(|token| of(token).0 == slot);
        if let Some(set) = LOOKED_AT.take() {
            it.looks_at = set;
        }
        if let Some(set) = LOOKED_AT_NEXT.take() {
            it.looks_next_at = set;
        }
        let over = !matches!(polled, Ok(Poll::Pending));
        if over {
            let call = self.slots.remove(slot);
            let _ = catch_unwind(AssertUnwindSafe(|| drop(call)));
        }
        over
    }
}

/// The loop.
struct Attendant {
    door: Arc<Door>,
    poll: AsyncFd<mio::Poll>,
    events: Events,
    calls: Calls,
    /// Lists to leave at the door for those that are taken.
    left: Left,
}

impl Attendant {
    fn new(door: Arc<Door>) -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let calls = Calls::new(Lines::new(poll.registry().try_clone()?));
        // SAFETY: a `Poll` has one descriptor from its making to its end, and gives no other. The safe way in is deprecated.
        #[allow(unsafe_code)]
        let poll = unsafe { AsyncFd::register_with_interest(poll, Interest::READABLE)? };
        Ok(Self { door, poll, events: Events::with_capacity(ROW), calls, left: Left::default() })
    }

    async fn run(mut self) {
        let mut row = 0;
        loop {
            row += poll_fn(|cx| self.poll_turn(cx)).await;
            // A call that woke itself, such as one that is flooded, has given up its turn for others, whose sockets and timers
            // only the runtime sees.
            if row >= ROW || self.door.has_left() {
                yield_now().await;
                row = 0;
            }
        }
    }

    /// Polls every call for which something has come, and tells how many.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        self.door.attendant.register(cx.waker());
        self.look_at_door();
        self.look_at_sockets(cx);
        let due = self.calls.due.len();
        if due == 0 {
            return Poll::Pending;
        }
        // What is left from now on is found without being woken: a task that is, comes back before the runtime has looked at
        // sockets and timers, sixty times.
        self.door.attendant.take();
        self.door.calls.fetch_sub(self.calls.serve(), Ordering::Relaxed);
        Poll::Ready(due)
    }

    fn look_at_door(&mut self) {
        self.door.take(&mut self.left);
        for make in self.left.coming.drain(..) {
            let entry = self.calls.slots.vacant_entry();
            let slot = entry.key();
            let place = Place { lines: self.calls.lines.clone(), slot };
            let Ok(call) = catch_unwind(AssertUnwindSafe(|| make(place))) else {
                self.door.calls.fetch_sub(1, Ordering::Relaxed);
                continue;
            };
            let woken = Arc::new(Woken { slot, noted: AtomicBool::new(false), door: self.door.clone() });
            let (looks_at, looks_next_at) = (WorkingSet::default(), WorkingSet::default());
            entry.insert(Slot { call, waker: woken.clone().into(), woken, came: Sources::NONE, looks_at, looks_next_at });
            self.calls.note(slot, Sources::WOKEN);
        }
        for slot in self.left.woken.drain(..) {
            if let Some(it) = self.calls.slots.get(slot) {
                it.woken.noted.store(false, Ordering::Release);
            }
            self.calls.note(slot, Sources::WOKEN);
        }
    }

    /// Notes whose sockets have something. When no call is due, it has asked to be woken.
    fn look_at_sockets(&mut self, cx: &mut Context<'_>) {
        // It fails when its runtime ends, and this loop with it.
        while let Poll::Ready(Ok(mut ready)) = self.poll.poll_read_ready_mut(cx) {
            if let Err(error) = ready.get_inner_mut().poll(&mut self.events, Some(Duration::ZERO)) {
                tracing::warn!(%error, "sockets could not be looked at, which is tried again");
                cx.waker().wake_by_ref();
                return;
            }
            for event in &self.events {
                let (slot, source) = of(event.token());
                let ending = event.is_read_closed() || event.is_error();
                self.calls.note(slot, if ending { source | Sources::ENDING } else { source });
            }
            // Else there may be more.
            if self.events.iter().count() < ROW {
                ready.clear_ready();
            }
            if !self.calls.due.is_empty() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::ready;
    use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{sleep, timeout};

    /// Says what it hears until its peer closes, as a call does: by what has come, and never by a waker.
    fn echo(io: TcpStream) -> impl FnOnce(Place) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send {
        |place| {
            Box::pin(async move {
                let mut io: BoxIo = Box::new(Tcp::new(io));
                place.watch(&mut io, Sources::CALLER);
                let heard = poll_fn(|cx| {
                    if came().has(Sources::ENDING) {
                        Tcp::of(&mut io).unwrap().ends();
                    }
                    let mut bytes = [0; 64];
                    loop {
                        let mut into = ReadBuf::new(&mut bytes);
                        match Pin::new(&mut io).poll_read(cx, &mut into) {
                            Poll::Ready(Ok(())) if into.filled().is_empty() => return Poll::Ready(()),
                            Poll::Ready(read) => read.unwrap(),
                            Poll::Pending => return Poll::Pending,
                        }
                        assert!(Pin::new(&mut io).poll_write(cx, into.filled()).is_ready());
                    }
                });
                heard.await;
            })
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_call_is_served_however_many_speak_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let exchanges = Arc::new(Exchanges::open());
        let (mut peers, mut calls) = (Vec::new(), Vec::new());
        for _ in 0..3 * ROW {
            peers.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            let (exchanges, io) = (exchanges.clone(), listener.accept().await.unwrap().0);
            calls.push(tokio::spawn(async move { exchanges.run(echo(io)).await }));
        }
        for round in 0..20_u8 {
            for peer in &mut peers {
                peer.write_all(&[round; 5]).await.unwrap();
            }
            for peer in &mut peers {
                let mut answer = [0; 5];
                timeout(Duration::from_secs(20), peer.read_exact(&mut answer)).await.expect("it is served").unwrap();
                assert_eq!(answer, [round; 5]);
            }
        }
        let held = |exchanges: &Exchanges| -> Vec<usize> {
            exchanges.0.iter().map(|it| it.door.calls.load(Ordering::Relaxed)).collect()
        };
        assert_eq!(held(&exchanges), [3 * ROW / 2; 2]);
        drop(peers);
        for call in calls {
            timeout(Duration::from_secs(20), call).await.expect("the end is noticed").unwrap().unwrap();
        }
        assert_eq!(held(&exchanges), [0; 2]);
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_call() {
        let exchanges = Exchanges::open();
        let (say, said) = oneshot::channel::<()>();
        let broken = exchanges.run(|_| async {
            yield_now().await;
            panic!("on purpose");
        });
        let unmade = exchanges.run(|_| -> std::future::Ready<()> { panic!("before it began") });
        let sound = exchanges.run(|_| async {
            said.await.unwrap();
            sleep(Duration::from_millis(1)).await;
        });
        let later = async {
            sleep(Duration::from_millis(5)).await;
            say.send(()).unwrap();
        };
        let (broken, unmade, sound, ()) = tokio::join!(broken, unmade, sound, later);
        assert!(broken.is_err() && unmade.is_err());
        sound.unwrap();
    }

    /// Two ends of a connection; the far one does not block.
    async fn connection() -> (BoxIo, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        far.set_nonblocking(true).unwrap();
        (Box::new(Tcp::new(listener.accept().await.unwrap().0)), far)
    }

    fn has_something(peer: &std::net::TcpStream) -> bool {
        peer.peek(&mut [0]).is_ok()
    }

    #[tokio::test]
    async fn what_calls_write_is_sent_when_those_beside_them_have_decided() {
        let exchanges = Exchanges::open();
        let (mut connections, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..ROW + 3 {
            let (near, far) = connection().await;
            connections.push(near);
            peers.push(far);
        }
        let peers = Arc::new(peers);
        let calls = connections.into_iter().map(|mut io| {
            let peers = peers.clone();
            let (say, said) = oneshot::channel();
            let call = exchanges.run(|place| async move {
                place.watch(&mut io, Sources::CALLER);
                io.write_all(b"decided").await.unwrap();
                say.send(peers.iter().filter(|it| has_something(it)).count()).unwrap();
                // Else its end would be as good as a turn's.
                yield_now().await;
            });
            async move { (call.await, said.await.unwrap()) }
        });
        let heard: Vec<usize> = futures::future::join_all(calls).await.into_iter().map(|it| it.1).collect();
        assert_eq!(heard[..ROW], [0; ROW]);
        assert_eq!(heard[ROW..], [ROW; 3]);
        assert!(peers.iter().all(has_something));
    }

    /// More than the kernel holds for a peer that does not read.
    fn much() -> Vec<u8> {
        (0..12_000_000_u32).map(|it| (it % 251) as u8).collect()
    }

    async fn read_to_end(far: std::net::TcpStream) -> Vec<u8> {
        let mut read = Vec::new();
        timeout(Duration::from_secs(60), TcpStream::from_std(far).unwrap().read_to_end(&mut read)).await.unwrap().unwrap();
        read
    }

    #[tokio::test]
    async fn what_a_peer_does_not_take_at_once_it_gets_later() {
        let exchanges = Exchanges::open();
        let (mut io, far) = connection().await;
        let (say, said) = oneshot::channel();
        let call = exchanges.run(|place| async move {
            place.watch(&mut io, Sources::CALLER);
            io.write_all(&much()).await.unwrap();
            // As the turn of others, in which nothing is taken of it.
            yield_now().await;
            let more = poll_fn(|cx| Poll::Ready(Pin::new(&mut io).poll_write(cx, b"!"))).await;
            say.send(more.is_pending()).unwrap();
            io.write_all(b"!").await.unwrap();
            io.shutdown().await.unwrap();
        });
        let call = tokio::spawn(call);
        assert!(said.await.unwrap(), "nothing may be queued behind it");
        let (read, expected) = (read_to_end(far).await, much());
        assert_eq!((read.len(), read.last()), (expected.len() + 1, Some(&b'!')));
        assert!(read.starts_with(&expected));
        call.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_leaves_takes_along_what_its_peer_has_not_taken() {
        let exchanges = Exchanges::open();
        for before in [false, true] {
            let (mut io, far) = connection().await;
            let (say, said) = oneshot::channel();
            let call = exchanges.run(move |place| async move {
                place.watch(&mut io, Sources::CALLER);
                io.write_all(&much()).await.unwrap();
                if before {
                    yield_now().await;
                }
                Tcp::of(&mut io).unwrap().take_back();
                say.send(io).ok().unwrap();
            });
            call.await.unwrap();
            let mut io = said.await.unwrap();
            let farewell = tokio::spawn(async move {
                io.write_all(b"bye").await.unwrap();
                io.shutdown().await.unwrap();
            });
            let (read, expected) = (read_to_end(far).await, much());
            assert_eq!(read.len(), expected.len() + 3);
            assert!(read.starts_with(&expected) && read.ends_with(b"bye"));
            farewell.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_told_of_by_the_next_write() {
        let exchanges = Exchanges::open();
        let (mut io, far) = connection().await;
        drop(far);
        let call = exchanges.run(|place| async move {
            place.watch(&mut io, Sources::CALLER);
            while io.write_all(b"is anybody there?").await.is_ok() {
                yield_now().await;
            }
        });
        timeout(Duration::from_secs(20), call).await.expect("it is told").unwrap();
    }

    #[tokio::test]
    async fn a_waker_that_outlives_its_call_harms_nobody() {
        let exchanges = Exchanges::open();
        let (keep, kept) = oneshot::channel();
        let over = exchanges.run(|_| poll_fn(move |cx| Poll::Ready(cx.waker().clone())).map(|it| keep.send(it).unwrap()));
        over.await.unwrap();
        let waker = kept.await.unwrap();
        waker.wake_by_ref();
        let (say, said) = oneshot::channel::<()>();
        let next = exchanges.run(|_| async { said.await.unwrap() });
        let noise = async {
            for _ in 0..10 {
                waker.wake_by_ref();
                yield_now().await;
            }
            say.send(()).unwrap();
        };
        tokio::join!(next, noise).0.unwrap();
    }

    #[tokio::test]
    async fn a_call_that_never_rests_leaves_the_others_their_turn() {
        let exchanges = Exchanges::open();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let restless = exchanges.run(|_| {
            poll_fn(move |cx| {
                cx.waker().wake_by_ref();
                if stopped.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
            })
        });
        let task = tokio::spawn(async move {
            sleep(Duration::from_millis(1)).await;
            stop.store(true, Ordering::Relaxed);
        });
        let other = exchanges.run(|_| sleep(Duration::from_millis(1)));
        let (restless, other, task) = tokio::join!(restless, other, task);
        restless.unwrap();
        other.unwrap();
        task.unwrap();
    }

    /// Counted in turns of the restless one, since time says nothing here.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn sockets_and_timers_are_looked_at_between_two_turns_of_a_call_that_never_rests() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let io = listener.accept().await.unwrap().0;
        tokio::spawn(async move {
            let exchanges = Exchanges::open();
            let turns = Arc::new(AtomicUsize::new(0));
            let counted = turns.clone();
            let _restless = tokio::spawn(exchanges.run(move |_| {
                poll_fn(move |cx| {
                    cx.waker().wake_by_ref();
                    counted.fetch_add(1, Ordering::Relaxed);
                    Poll::Pending
                })
            }));
            let _echo = tokio::spawn(exchanges.run(echo(io)));
            let mut answer = [0; 5];
            let mut most = 0;
            for _ in 0..20 {
                let before = turns.load(Ordering::Relaxed);
                peer.write_all(b"hello").await.unwrap();
                peer.read_exact(&mut answer).await.unwrap();
                most = most.max(turns.load(Ordering::Relaxed) - before);
            }
            assert!(most < 10, "{most} turns until it was answered");
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn what_comes_between_two_polls_is_read_though_the_last_read_left_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let io = listener.accept().await.unwrap().0;
        let exchanges = Exchanges::open();
        let ((read, was_read), (go_on, goes_on)) = (oneshot::channel(), oneshot::channel());
        let call = exchanges.run(|place| async move {
            let mut io: BoxIo = Box::new(Tcp::new(io));
            place.watch(&mut io, Sources::CALLER);
            let mut bytes = [0; 64];
            assert_eq!(io.read(&mut bytes).await.unwrap(), 5);
            read.send(()).unwrap();
            goes_on.await.unwrap();
            assert_eq!(io.read(&mut bytes).await.unwrap(), 6);
        });
        peer.write_all(b"first").await.unwrap();
        was_read.await.unwrap();
        peer.write_all(b"second").await.unwrap();
        // The loop is told of it, once, while the call waits for something else.
        for _ in 0..1000 {
            yield_now().await;
        }
        go_on.send(()).unwrap();
        timeout(Duration::from_secs(20), call).await.expect("it is read").unwrap();
    }

    async fn told_of(peer: &std::net::TcpStream) {
        use std::io::Write as _;
        let mut peer = peer;
        peer.write_all(b"unasked").unwrap();
        // The loop is told of it, and reads it ahead.
        for _ in 0..1000 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_a_call_did_not_read_it_takes_along() {
        let exchanges = Exchanges::open();
        let (mut io, far) = connection().await;
        let ((say, said), (go_on, goes_on)) = (oneshot::channel(), oneshot::channel());
        let call = exchanges.run(|place| async move {
            place.watch(&mut io, Sources::CALLER);
            goes_on.await.unwrap();
            let mut bytes = [0; 2];
            assert_eq!(io.read(&mut bytes).await.unwrap(), 2);
            Tcp::of(&mut io).unwrap().take_back();
            say.send(io).ok().unwrap();
        });
        let call = tokio::spawn(call);
        told_of(&far).await;
        told_of(&far).await;
        go_on.send(()).unwrap();
        let mut io = said.await.unwrap();
        drop(far);
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"askedunasked");
        call.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn more_than_is_read_ahead_comes_whole_and_in_order() {
        // Of 48 calls 8 kB each are more than a turn reads ahead, and their first turn is one.
        const CALLS: usize = 48;
        let exchanges = Exchanges::open();
        let sent: Arc<[u8]> = (0..40_000_u32).map(|it| (it % 251) as u8).collect();
        let mut connections = Vec::new();
        for _ in 0..CALLS {
            let (io, mut far) = connection().await;
            std::io::Write::write_all(&mut far, &sent).unwrap();
            connections.push(io);
        }
        let calls = connections.into_iter().map(|mut io| {
            let expected = sent.clone();
            let call = exchanges.run(|place| async move {
                place.watch(&mut io, Sources::CALLER);
                let mut read = Vec::new();
                poll_fn(|cx| {
                    if came().has(Sources::ENDING) {
                        Tcp::of(&mut io).unwrap().ends();
                    }
                    // In pieces that fit nothing.
                    let mut bytes = [0; 3001];
                    loop {
                        let mut into = ReadBuf::new(&mut bytes);
                        ready!(Pin::new(&mut io).poll_read(cx, &mut into)).unwrap();
                        if into.filled().is_empty() {
                            return Poll::Ready(());
                        }
                        read.extend_from_slice(into.filled());
                    }
                })
                .await;
                assert!(read == *expected);
            });
            timeout(Duration::from_secs(20), call)
        });
        for call in futures::future::join_all(calls).await {
            call.expect("it comes whole").unwrap();
        }
    }

    #[tokio::test]
    async fn what_broke_a_connection_is_told_by_the_next_read_wherever_that_is() {
        let exchanges = Exchanges::open();
        for leaves in [false, true] {
            let (mut io, far) = connection().await;
            // A close without a word, which the other side sees as a reset.
            rustix::net::sockopt::set_socket_linger(&far, Some(Duration::ZERO)).unwrap();
            let (go_on, goes_on) = oneshot::channel();
            let call = exchanges.run(move |place| async move {
                place.watch(&mut io, Sources::CALLER);
                goes_on.await.unwrap();
                if leaves {
                    Tcp::of(&mut io).unwrap().take_back();
                }
                assert_eq!(io.read(&mut [0; 64]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
                assert_eq!(io.read(&mut [0; 64]).await.unwrap(), 0);
            });
            let call = tokio::spawn(call);
            yield_now().await;
            drop(far);
            for _ in 0..1000 {
                yield_now().await;
            }
            go_on.send(()).unwrap();
            timeout(Duration::from_secs(20), call).await.expect("it is told").unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn what_a_call_looks_at_is_remembered_until_it_tells_otherwise_and_next_to_it_what_it_looks_at_next() {
        static THINGS: [[u8; 100]; 2] = [[0; 100]; 2];
        let set = |thing: usize| {
            let mut set = WorkingSet::default();
            set.add(&THINGS[thing]);
            set
        };
        let door = Arc::new(Door::default());
        let mut attendant = Attendant::new(door.clone()).unwrap();
        let call = move |_| -> Running {
            let mut tells = [(Some(0), 1), (None, 0), (Some(1), 1)].into_iter();
            Box::pin(poll_fn(move |_| {
                let (things, next) = tells.next().unwrap();
                if let Some(thing) = things {
                    looks_at(set(thing));
                }
                looks_next_at(set(next));
                Poll::Pending
            }))
        };
        door.leave(|it| it.coming.push(Box::new(call)));
        attendant.look_at_door();
        for (expected, next) in [(0, 1), (0, 0), (1, 1)] {
            attendant.calls.note(0, Sources::WOKEN);
            attendant.calls.serve();
            let slot = &attendant.calls.slots[0];
            assert_eq!((slot.looks_at, slot.looks_next_at), (set(expected), set(next)));
        }
    }

    #[tokio::test]
    async fn its_loops_end_with_it() {
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let before = tasks();
        let exchanges = Exchanges::open();
        exchanges.run(|_| async {}).await.unwrap();
        assert_eq!(tasks(), before + 1);
        drop(exchanges);
        for _ in 0..1000 {
            if tasks() == before {
                return;
            }
            yield_now().await;
        }
        panic!("a loop goes on");
    }
}
