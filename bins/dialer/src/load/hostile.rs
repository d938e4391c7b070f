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

impl Hostility {
    const ALL: [Self; 5] = [Self::Flood, Self::Garbage, Self::Huge, Self::Deaf, Self::Slow];

    /// Whether the server is to end such a call within two seconds: the other two cost nothing, and end by their timeouts.
    fn is_to_be_ended(self) -> bool {
        matches!(self, Self::Flood | Self::Garbage | Self::Huge)
    }
}

/// What a hostile call did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hostile {
    pub hostility: Hostility,
    /// When the server closed its socket, if it did, in seconds after its begin.
    pub ended_after: Option<f64>,
    /// The other calls before it, and with it.
    pub before: Step,
    pub with: Step,
}

impl Hostile {
    /// Whether it was ended in time, lost nobody a frame, and made nobody late by more than twice as much, or a millisecond.
    pub fn holds(&self) -> bool {
        let ended = !self.hostility.is_to_be_ended() || self.ended_after.is_some_and(|it| it <= 2.0);
        let bound = (2.0 * self.before.round_trip.p99_ms).max(self.before.round_trip.p99_ms + 1.0);
        ended && self.with.lost + self.with.repeated + self.with.foreign == 0 && self.with.round_trip.p99_ms <= bound
    }
}

/// Each hostility in turn, beside `calls` calls.
///
/// # Errors
/// When something does not start.
pub async fn run(offhook: &Path, setup: Setup, calls: usize, time: Duration, progress: Progress<'_>) -> Result<Vec<Hostile>> {
    let mut load = Load::start(offhook, setup).await?;
    load.ring_up_to(calls, RATE).await?;
    sleep(SETTLING).await;
    let mut found = Vec::new();
    for hostility in Hostility::ALL {
        let before = load.measure(time).await?;
        let (opened, _, _) = load.target.ring(CONNECTING).await?;
        let noting = load.note().await?;
        let misbehaving = std::thread::spawn(move || misbehave(hostility, opened, time));
        sleep(time).await;
        let with = load.measured(noting).await?;
        let ended_after = misbehaving.join().ok().flatten().map(|it| it.as_secs_f64());
        let it = Hostile { hostility, ended_after, before, with };
        progress(&format!(
            "{}: {hostility:?}: p99 {:.2} → {:.2} ms, ended after {:?} s: {}",
            title(setup),
            it.before.round_trip.p99_ms,
            it.with.round_trip.p99_ms,
            it.ended_after,
            if it.holds() { "holds" } else { "DOES NOT HOLD" }
        ));
        found.push(it);
    }
    Ok(found)
}

/// Misbehaves for a time; tells when the server closed the socket, if it did.
fn misbehave(hostility: Hostility, opened: Opened, time: Duration) -> Option<Duration> {
    let began = Instant::now();
    let mut socket = opened.socket;
    socket.set_nonblocking(true).ok()?;
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
