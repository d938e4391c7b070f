//! What has something for a call. Its exchange tells of sockets; every other source has a waker of its own, so that a call
//! looks at what has something and leaves the rest alone. A look at a socket, a queue or a timer that has nothing costs
//! several lines of memory that are cold after twenty milliseconds and hundreds of calls.

use std::ops::{BitOr, BitOrAssign};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Wake, Waker};

/// A set of sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources(u8);

impl Sources {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const CALLER: Self = Self(1);
    pub(crate) const ASSISTANT: Self = Self(2);
    pub(crate) const TIMER: Self = Self(4);
    /// Orders from outside, a session that is being opened, tools that run.
    pub(crate) const SELDOM: Self = Self(8);
    /// All that a waker can tell of.
    pub(crate) const ALL: Self = Self(15);
    /// A waker has told of something.
    pub(crate) const WOKEN: Self = Self(16);
    /// A peer has closed its socket; there may still be something to read.
    pub(crate) const ENDING: Self = Self(32);
    /// A peer did not take all that was written.
    pub(crate) const UNSENT: Self = Self(64);
    const EACH: [Self; 4] = [Self::CALLER, Self::ASSISTANT, Self::TIMER, Self::SELDOM];

    pub(crate) fn has(self, source: Self) -> bool {
        self.0 & source.0 != 0
    }

    pub(crate) fn without(self, source: Self) -> Self {
        Self(self.0 & !source.0)
    }
}

impl BitOr for Sources {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Sources {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// The wakers of one call.
#[derive(Debug)]
pub(crate) struct Wakers {
    shared: Arc<Shared>,
    wakers: [Waker; Sources::EACH.len()],
}

#[derive(Debug)]
struct Shared {
    /// Sources that have woken the call since it last asked.
    raised: AtomicU8,
    call: Waker,
}

struct Source {
    shared: Arc<Shared>,
    source: Sources,
}

impl Wake for Source {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Whoever raised the first has woken the call, which has not asked yet.
        if self.shared.raised.fetch_or(self.source.0, Ordering::AcqRel) == 0 {
            self.shared.call.wake_by_ref();
        }
    }
}

impl Wakers {
    /// For the call that `call` wakes. Nothing waits with them yet: every source must be looked at.
    pub(crate) fn new(call: &Waker) -> Self {
        let shared = Arc::new(Shared { raised: AtomicU8::new(0), call: call.clone() });
        let wakers = Sources::EACH.map(|source| Waker::from(Arc::new(Source { shared: shared.clone(), source })));
        Self { shared, wakers }
    }

    /// What has woken the call since this was last asked. To be asked before the sources are looked at.
    pub(crate) fn raised(&self) -> Sources {
        Sources(self.shared.raised.swap(0, Ordering::AcqRel))
    }

    /// The waker to look at one source with.
    pub(crate) fn of(&self, source: Sources) -> &Waker {
        &self.wakers[source.0.trailing_zeros() as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_call_is_woken_once_and_told_by_whom() {
        let call = Arc::new(Woken::default());
        let waker = Waker::from(call.clone());
        let wakers = Wakers::new(&waker);
        assert_eq!(wakers.raised(), Sources::NONE);
        wakers.of(Sources::TIMER).wake_by_ref();
        wakers.of(Sources::CALLER).wake_by_ref();
        assert_eq!(call.0.load(Ordering::Relaxed), 1);
        assert_eq!(wakers.raised(), Sources::TIMER | Sources::CALLER);
        wakers.of(Sources::SELDOM).wake_by_ref();
        assert_eq!(call.0.load(Ordering::Relaxed), 2, "it has asked, so it must be woken again");
        assert_eq!(wakers.raised(), Sources::SELDOM);
    }
}
