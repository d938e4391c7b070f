//! How late this very process is: a machine that stands still disturbs what happens in real time, and says nothing about a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(10);
/// Half of what a telephone network holds back: above it callers may hear the machine.
const DISTURBED: Duration = Duration::from_millis(100);

/// Watches until it is dropped.
pub struct Lateness {
    longest_us: Arc<AtomicU64>,
    watching: JoinHandle<()>,
}

impl Lateness {
    /// Begins, in the runtime that is to be watched.
    pub fn watch() -> Self {
        let longest_us = Arc::<AtomicU64>::default();
        let noted = longest_us.clone();
        let watching = tokio::spawn(async move {
            let mut clock = tokio::time::interval(EVERY);
            loop {
                let due = clock.tick().await;
                noted.fetch_max(due.elapsed().as_micros() as u64, Ordering::Relaxed);
            }
        });
        Self { longest_us, watching }
    }

    /// The longest that anything was late.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.load(Ordering::Relaxed))
    }

    /// Whether what was seen meanwhile may be the machine's doing.
    pub fn is_disturbed(&self) -> bool {
        self.longest() > DISTURBED
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.watching.abort();
    }
}
