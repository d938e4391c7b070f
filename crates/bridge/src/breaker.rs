//! Accounts at providers that rest after failing: callers do not wait for what is known to be down.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures within [`WINDOW`] that open a breaker. A refusal of the key does so at once.
const FAILURES: usize = 3;
const WINDOW: Duration = Duration::from_secs(10);
/// How long an account rests; then one session at a time tries it.
const REST: Duration = Duration::from_secs(30);
/// An account that nobody has used for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct Breaker {
    failures: Vec<Instant>,
    /// Nobody is let through before; the first one after is a probe.
    open_until: Option<Instant>,
    /// It was opened by a refusal.
    refused: bool,
    touched: Instant,
}

/// Why an account rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It has failed several times.
    Failing,
    /// It was refused: nothing but a change of key or settings helps.
    Refused,
}

/// One breaker per account: host and key.
#[derive(Debug, Default)]
pub(crate) struct Breakers(Mutex<HashMap<String, Breaker>>);

impl Breakers {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Breaker>> {
        // Every change is complete in itself: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a session may be opened; otherwise why not.
    pub(crate) fn admits(&self, account: &str, now: Instant) -> Result<(), Rest> {
        let mut all = self.all();
        let Some(breaker) = all.get_mut(account) else { return Ok(()) };
        match breaker.open_until {
            Some(until) if now < until => Err(if breaker.refused { Rest::Refused } else { Rest::Failing }),
            Some(_) => {
                // Half open: this one tries; the others go on waiting for what it finds.
                breaker.open_until = Some(now + REST);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A session was ready.
    pub(crate) fn succeeded(&self, account: &str) {
        self.all().remove(account);
    }

    /// A session was not reached, or died before it was ready. `refused`: trying again cannot help.
    pub(crate) fn failed(&self, account: &str, refused: bool, now: Instant) {
        let mut all = self.all();
        all.retain(|_, it| now.duration_since(it.touched) < FORGOTTEN);
        let new = || Breaker { failures: Vec::new(), open_until: None, refused: false, touched: now };
        let breaker = all.entry(account.to_owned()).or_insert_with(new);
        breaker.touched = now;
        breaker.failures.retain(|it| now.duration_since(*it) < WINDOW);
        breaker.failures.push(now);
        if refused || breaker.failures.len() >= FAILURES {
            if breaker.open_until.is_none_or(|it| it <= now) {
                tracing::error!(account, "this provider's account rests for {} s", REST.as_secs());
            }
            breaker.open_until = Some(now + REST);
            breaker.refused = refused;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_in_ten_seconds_rest_an_account_and_a_probe_wakes_it() {
        let (breakers, start) = (Breakers::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for (second, admitted) in [(0, true), (8, true), (19, true), (20, true)] {
            assert_eq!(breakers.admits("a", at(second)).is_ok(), admitted, "{second}");
            breakers.failed("a", false, at(second));
        }
        assert!(breakers.admits("a", at(21)).is_ok(), "no three of them are within ten seconds");
        breakers.failed("a", false, at(21));
        assert_eq!((breakers.admits("a", at(22)), breakers.admits("b", at(22))), (Err(Rest::Failing), Ok(())));
        assert_eq!(breakers.admits("a", at(52)), Ok(()), "one probe");
        assert_eq!(breakers.admits("a", at(52)), Err(Rest::Failing), "and only one");
        breakers.succeeded("a");
        assert_eq!(breakers.admits("a", at(53)), Ok(()));
    }

    #[test]
    fn a_refused_key_rests_at_once() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        breakers.failed("a", true, now);
        assert_eq!(breakers.admits("a", now + Duration::from_secs(29)), Err(Rest::Refused));
        assert_eq!(breakers.admits("a", now + Duration::from_secs(30)), Ok(()));
        breakers.failed("a", true, now + Duration::from_secs(31));
        assert_eq!(breakers.admits("a", now + Duration::from_secs(60)), Err(Rest::Refused));
    }
}
