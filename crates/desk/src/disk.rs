//! How much room is left for what calls leave behind. A full disk must cost recordings before it costs calls, and calls before
//! it costs the record of calls.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// Below this somebody is told.
const LOW: u64 = 1 << 30;
/// Below this no recording is begun any more.
const NO_RECORDINGS: u64 = 256 << 20;
/// Below this no call is answered any more: the rest is for the journal of those that are live.
const NO_CALLS: u64 = 64 << 20;

/// The room on the disk of the data folder, as it was when it was last looked at.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    free: AtomicU64,
}

impl Disk {
    /// Not looked at yet: everything is allowed.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, free: AtomicU64::new(u64::MAX) }
    }

    /// Looks.
    ///
    /// # Errors
    /// When the folder is gone.
    pub fn look(&self) -> io::Result<()> {
        let it = rustix::fs::statvfs(&self.folder)?;
        self.note(it.f_bavail.saturating_mul(it.f_frsize));
        Ok(())
    }

    /// Notes how many bytes are free.
    pub fn note(&self, free: u64) {
        let before = self.free.swap(free, Ordering::Relaxed);
        for (limit, what) in [
            (LOW, "the disk is getting full: make room"),
            (NO_RECORDINGS, "the disk is nearly full: calls are not recorded any more"),
            (NO_CALLS, "the disk is full: calls are turned away"),
        ] {
            if free < limit && before >= limit {
                tracing::error!(free_mib = free >> 20, folder = %self.folder.display(), "{what}");
            }
        }
    }

    /// Bytes; `u64::MAX` before the first look.
    pub fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Whether a recording may be begun.
    pub fn has_room_for_recordings(&self) -> bool {
        self.free() >= NO_RECORDINGS
    }

    /// Whether a call may be answered.
    pub fn has_room_for_calls(&self) -> bool {
        self.free() >= NO_CALLS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_are_given_up_before_calls_and_both_come_back() {
        let disk = Disk::new("/".into());
        for (free_mib, recordings, calls) in
            [(u64::MAX >> 20, true, true), (300, true, true), (255, false, true), (63, false, false), (2000, true, true)]
        {
            disk.note(free_mib << 20);
            assert_eq!((disk.has_room_for_recordings(), disk.has_room_for_calls()), (recordings, calls), "{free_mib} MiB");
        }
        disk.look().unwrap();
        assert!(disk.free() < u64::MAX, "it was looked at");
        assert!(Disk::new("/nowhere/at/all".into()).look().is_err());
    }
}
