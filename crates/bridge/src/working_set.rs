//! What a call looks at whenever something comes for it. It is asked of memory before the call has its turn: after twenty
//! milliseconds and hundreds of calls it has left the processor's caches, and most of it is found only by way of something
//! else, so that a call would wait for one piece after the other (decision 0030).

use std::mem::size_of_val;

/// How much a processor fetches at once.
const LINE_BYTES: usize = 64;
/// Most that is asked for of one thing: what is larger is a buffer, or has what is seldom looked at behind.
const STRETCH_BYTES_MAX: usize = 4096;
/// Things of a call: itself, the id of its stream, its session, the session's provider, and two connections of two parts. What
/// the next turn looks at beside them is less.
const STRETCHES_MAX: usize = 8;

/// The things that a call looks at whenever something comes for it.
///
/// Only their addresses are kept, for a hint: a thing that is gone or has moved is asked for in vain, and nothing else happens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct WorkingSet([Stretch; STRETCHES_MAX]);

/// What the processor fetches of a thing: the number of its first line, and in the lowest byte how many there are. A call's
/// stretches fit a line themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Stretch(u64);

impl Stretch {
    fn of<T: ?Sized>(thing: &T) -> Self {
        Self::new(std::ptr::from_ref(thing).addr(), size_of_val(thing))
    }

    fn new(begin: usize, bytes: usize) -> Self {
        let bytes = bytes.min(STRETCH_BYTES_MAX);
        let first = begin / LINE_BYTES;
        let lines = if bytes == 0 { 0 } else { (begin + bytes).div_ceil(LINE_BYTES) - first };
        Self((first as u64) << 8 | lines as u64)
    }

    /// Addresses, one in each line that the stretch touches.
    fn lines(self) -> impl Iterator<Item = usize> {
        let (first, lines) = ((self.0 >> 8) as usize, (self.0 & 0xFF) as usize);
        (0..lines).map(move |it| (first + it) * LINE_BYTES)
    }
}

impl WorkingSet {
    /// One more thing; beyond eight, they are found when they are looked at.
    pub(crate) fn add<T: ?Sized>(&mut self, thing: &T) {
        if let Some(stretch) = self.0.iter_mut().find(|it| **it == Stretch::default()) {
            *stretch = Stretch::of(thing);
        }
    }

    /// Of bytes of which only the places are known.
    pub(crate) fn of_places(places: impl Iterator<Item = *const [u8]>) -> Self {
        let mut set = Self::default();
        let mut free = set.0.iter_mut();
        places.for_each(|it| {
            if let Some(stretch) = free.next() {
                *stretch = Stretch::new(it.addr(), it.len());
            }
        });
        set
    }

    /// Asks for all of it, and waits for nothing.
    pub(crate) fn prefetch(&self) {
        self.0.iter().for_each(|it| it.lines().for_each(ask));
    }
}

/// Asks for one thing, and waits for nothing.
pub(crate) fn prefetch<T: ?Sized>(thing: &T) {
    Stretch::of(thing).lines().for_each(ask);
}

/// On other processors, everything is found when it is looked at.
#[cfg(not(target_arch = "x86_64"))]
fn ask(_: usize) {}

/// Asks for it to the second level of the caches: the first has room for less than what the calls of a turn look at.
#[cfg(target_arch = "x86_64")]
// The processor's hint has no safe form in stable Rust.
#[allow(unsafe_code)]
fn ask(address: usize) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: a hint; whatever the address, nothing is read and nothing fails.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::without_provenance(address)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_thing_is_asked_for_once() {
        let stretch = |begin, bytes| Stretch::new(begin, bytes).lines().collect::<Vec<_>>();
        assert_eq!(stretch(1024, 64), [1024]);
        assert_eq!(stretch(1025, 64), [1024, 1088]);
        assert_eq!(stretch(1087, 1), [1024]);
        assert_eq!(stretch(1087, 66), [1024, 1088, 1152]);
        assert!(stretch(1024, 0).is_empty());
        let of_a_large_one = Stretch::of(&vec![0_u8; 1 << 20][..]).lines().count();
        assert!((64..=65).contains(&of_a_large_one), "{of_a_large_one}");
    }

    #[test]
    fn a_place_is_asked_for_like_the_thing_that_lies_there() {
        let thing = [0_u8; 300];
        let mut by_thing = WorkingSet::default();
        by_thing.add(&thing);
        assert_eq!(by_thing, WorkingSet::of_places([&raw const thing[..]].into_iter()));
        let many = std::iter::repeat_n(&raw const thing[..], 2 * STRETCHES_MAX);
        assert_eq!(WorkingSet::of_places(many).0, [by_thing.0[0]; STRETCHES_MAX]);
    }

    #[test]
    fn what_does_not_fit_and_what_is_gone_does_no_harm() {
        let mut set = WorkingSet::default();
        for thing in 0..2 * STRETCHES_MAX {
            set.add(&vec![thing; 100][..]);
        }
        assert!(set.0.iter().all(|it| *it != Stretch::default()));
        set.prefetch();
        prefetch("");
    }
}
