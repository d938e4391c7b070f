//! Whether this process keeps time: what tells best that there are more calls than processors for them.

use std::collections::VecDeque;
use std::sync::Weak;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::directory::Directory;

/// Between two looks, and how many are remembered: five seconds.
const EVERY: Duration = Duration::from_millis(20);
const REMEMBERED: usize = 250;
/// A look that comes later than this is late: a frame would be, too.
const LATE: Duration = Duration::from_millis(20);
/// Late looks among those remembered, at which no further call is taken. A machine that stands still for a moment is late once.
const LATE_MAX: usize = REMEMBERED / 10;

/// The newest looks.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    late: VecDeque<bool>,
    count: usize,
}

impl Pace {
    /// Notes how late a look came; returns whether too many were late.
    fn note(&mut self, lateness: Duration) -> bool {
        if self.late.len() == REMEMBERED {
            self.count -= usize::from(self.late.pop_front() == Some(true));
        }
        self.late.push_back(lateness > LATE);
        self.count += usize::from(lateness > LATE);
        self.count >= LATE_MAX
    }
}

/// Looks at the clock for as long as there is a directory, and tells it.
pub(crate) async fn watch(directory: Weak<Directory>) {
    let mut pace = Pace::default();
    loop {
        let due = Instant::now() + EVERY;
        sleep_until(due).await;
        let Some(directory) = directory.upgrade() else { return };
        directory.set_late(pace.note(due.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_steady_lateness_counts_and_it_passes() {
        let (mut pace, on_time, late) = (Pace::default(), Duration::from_millis(1), Duration::from_millis(25));
        assert!((0..REMEMBERED).all(|_| !pace.note(on_time)));
        assert!(!pace.note(Duration::from_secs(3)), "a machine stood still, once");
        let told: Vec<bool> = (0..REMEMBERED).map(|it| pace.note(if it % 5 == 0 { late } else { on_time })).collect();
        assert_eq!(told.last(), Some(&true), "every fifth look is late");
        assert!(told.iter().filter(|it| !**it).count() >= 4 * LATE_MAX, "it took a while to be sure");
        (0..REMEMBERED).for_each(|_| _ = pace.note(on_time));
        assert!(!pace.note(on_time));
    }
}
