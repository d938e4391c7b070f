//! One call that misbehaves, beside many that do not: what it does to them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use wire::websocket::print_text;

use super::callers::Opened;
use super::{CONNECTING, Load, Progress, RATE, SETTLING, Setup, Step, title};

/// What a hostile call does once its stream has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hostility {
    /// Sends audio as fast as the socket takes it
    Flood,
    /// Sends text that is no message, as fast as the socket takes it
    Garbage,
    /// Sends messages that are longer than any
    Huge,
    /// Speaks as it should, and reads nothing
    Deaf,
    /// Sends a message a byte a second
    Slow,
}

/// Rounds of which none is left out: one may have been late before, by luck, and hold for that.
pub(super) const ROUNDS_MIN: usize = 2;

impl Hostility {
    const ALL: [Self; 5] = [Self::Flood, Self::Garbage, Self::Huge, Self::Deaf, Self::Slow];

    /// Whether the server is to end such a call within two seconds: the other two cost nothing, and end by their timeouts.
    fn is_to_be_ended(self) -> bool {
        matches!(self, Self::Flood | Self::Garbage | Self::Huge)
    }
}

/// What one hostile call did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hostile {
    pub hostility: Hostility,
    /// When the server closed its socket, if it did, in seconds after its begin.
    pub ended_after: Option<f64>,
    /// The other calls before it, and with it.
    pub before: Step,
    pub with: Step,
}

/// What all calls of one hostility did.
#[derive(Clone, Copy, Debug)]
pub struct Effect {
    pub hostility: Hostility,
    /// Whether each was ended in time, if it was to be, and lost nobody a frame.
    pub harmless: bool,
    /// The others' p99 before such a call and with it, in milliseconds: of each the least, more is what the machine did beside it.
    pub before: f64,
    pub with: f64,
}

impl Effect {
    /// One for each hostility that was measured.
    pub fn of_all(found: &[Hostile]) -> Vec<Self> {
        let of = |hostility: Hostility| {
            let all = || found.iter().filter(move |it| it.hostility == hostility);
            let least = |pick: fn(&Hostile) -> f64| all().map(pick).min_by(f64::total_cmp);
            let harmless = all().all(|it| {
                let ended = !hostility.is_to_be_ended() || it.ended_after.is_some_and(|it| it <= 2.0);
                ended && it.with.lost + it.with.repeated + it.with.foreign == 0 && it.with.streams_lost == 0
            });
            let before = least(|it| it.before.round_trip.p99_ms)?;
            Some(Self { hostility, harmless, before, with: least(|it| it.with.round_trip.p99_ms)? })
        };
        Hostility::ALL.into_iter().filter_map(of).collect()
    }

    /// Whether it harmed nobody, and made nobody late by more than twice as much, or a millisecond.
    pub fn holds(self) -> bool {
        self.harmless && self.with <= (2.0 * self.before).max(self.before + 1.0)
    }
}

/// Each hostility beside `calls` calls, in turn, two rounds; then those that do not hold, so many rounds at most in all: a machine
/// that others share makes frames late at times.
///
/// # Errors
/// When something does not start.
pub async fn run(
    offhook: &Path,
    setup: Setup,
    calls: usize,
    rounds: usize,
    time: Duration,
    progress: Progress<'_>,
) -> Result<Vec<Hostile>> {
    let mut load = Load::start(offhook, setup).await?;
    load.ring_up_to(calls, RATE).await?;
    sleep(SETTLING).await;
    let mut found = Vec::new();
    for (round, hostility) in (0..rounds).flat_map(|round| Hostility::ALL.map(|it| (round, it))) {
        if round >= ROUNDS_MIN && Effect::of_all(&found).into_iter().any(|it| it.hostility == hostility && it.holds()) {
            continue;
        }
        let before = load.measure(time).await?;
        let (opened, _, _) = load.target.ring(CONNECTING).await?;
        let noting = load.note().await?;
        let misbehaving = std::thread::spawn(move || misbehave(hostility, opened, time));
        sleep(time).await;
        let with = load.measured(noting).await?;
        let ended_after = misbehaving.join().ok().flatten().map(|it| it.as_secs_f64());
        progress(&format!(
            "{}: {hostility:?}: p99 {:.2} → {:.2} ms, ended after {ended_after:?} s",
            title(setup),
            before.round_trip.p99_ms,
            with.round_trip.p99_ms,
        ));
        found.push(Hostile { hostility, ended_after, before, with });
    }
    Ok(found)
}

/// Misbehaves for a time; tells when the server closed the socket, if it did.
fn misbehave(hostility: Hostility, opened: Opened, time: Duration) -> Option<Duration> {
    let began = Instant::now();
    let mut socket = opened.socket;
    socket.set_nonblocking(true).ok()?;
    if hostility == Hostility::Deaf {
        // What it does not read is soon more than the system takes for it.
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 1024).ok()?;
    }
    let mask = Some([1, 2, 3, 4]);
    let mut message = Vec::new();
    let audio = "/".repeat(216);
    let media = format!(
        r#"{{"event":"media","sequenceNumber":"2","media":{{"track":"inbound","chunk":"1","timestamp":"0","payload":"{audio}"}},"streamSid":"{}"}}"#,
        opened.stream_sid
    );
    match hostility {
        Hostility::Flood | Hostility::Deaf | Hostility::Slow => print_text(&mut message, &media, mask),
        Hostility::Garbage => print_text(&mut message, "{\"event\": garbage", mask),
        Hostility::Huge => print_text(&mut message, &"x".repeat(65 * 1024), mask),
    }
    let (mut at, mut rest) = (0, &message[..]);
    while began.elapsed() < time {
        if hostility != Hostility::Deaf {
            match socket.read(&mut [0; 4096]) {
                Ok(0) => return Some(began.elapsed()),
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Some(began.elapsed()),
                _ => (),
            }
        }
        let piece = if hostility == Hostility::Slow { &rest[..1] } else { rest };
        match socket.write(piece) {
            Ok(sent) => {
                at += sent;
                rest = &message[at % message.len()..];
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => return Some(began.elapsed()),
        }
        match hostility {
            Hostility::Deaf => std::thread::sleep(Duration::from_millis(20)),
            Hostility::Slow => std::thread::sleep(Duration::from_secs(1)),
            Hostility::Flood | Hostility::Garbage | Hostility::Huge => (),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::Summary;
    use super::*;

    /// A call of a hostility that was ended so late, with the others' p99 before it and with it, and frames that they lost.
    fn hostile(hostility: Hostility, ended_after: Option<f64>, before: f64, with: f64, lost: u64) -> Hostile {
        let step = |p99_ms, lost| Step { lost, round_trip: Summary { p99_ms, ..Summary::default() }, ..Step::default() };
        Hostile { hostility, ended_after, before: step(before, 0), with: step(with, lost) }
    }

    #[test]
    fn of_lateness_the_least_counts_and_of_harm_each() {
        let effects = |found: &[Hostile]| -> Vec<_> {
            Effect::of_all(found).into_iter().map(|it| (it.hostility, it.before, it.with, it.holds())).collect()
        };
        let flood = |before, with| hostile(Hostility::Flood, Some(0.1), before, with, 0);
        assert_eq!(effects(&[]), []);
        assert_eq!(effects(&[flood(0.5, 1.5)]), [(Hostility::Flood, 0.5, 1.5, true)], "a millisecond more");
        assert_eq!(effects(&[flood(2.0, 4.0)]), [(Hostility::Flood, 2.0, 4.0, true)], "twice as much");
        assert_eq!(effects(&[flood(2.0, 4.1)]), [(Hostility::Flood, 2.0, 4.1, false)]);
        assert_eq!(
            effects(&[flood(9.0, 4.0), flood(1.0, 9.0)]),
            [(Hostility::Flood, 1.0, 4.0, false)],
            "luck before is no excuse"
        );
        assert_eq!(effects(&[flood(1.0, 9.0), flood(9.0, 1.0)]), [(Hostility::Flood, 1.0, 1.0, true)]);

        let harmful = [
            hostile(Hostility::Garbage, None, 1.0, 1.0, 0),
            hostile(Hostility::Huge, Some(2.1), 1.0, 1.0, 0),
            hostile(Hostility::Deaf, None, 1.0, 1.0, 1),
        ];
        for it in harmful {
            let other = hostile(it.hostility, Some(0.1), 1.0, 1.0, 0);
            assert_eq!(effects(&[it.clone(), other]), [(it.hostility, 1.0, 1.0, false)]);
        }
        assert_eq!(effects(&[hostile(Hostility::Slow, None, 1.0, 1.0, 0)]), [(Hostility::Slow, 1.0, 1.0, true)], "it may stay");
    }
}
