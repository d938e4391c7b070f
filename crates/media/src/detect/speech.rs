//! Local voice detection: for barge-in, liveness and latency. The provider's own detector decides turns.
//!
//! Three judges must agree on every 20 ms: a spectral classifier (the one of WebRTC, most aggressive mode), energy above
//! the noise floor, and loudness against what is being played to the caller, whose echo would otherwise pass for speech.
//! Babble close to the telephone deceives all three; a trigger should therefore duck or pause playback and wait for the
//! provider to confirm.

use std::collections::VecDeque;
use std::fmt;

use webrtc_vad::{SampleRate, Vad, VadMode};

use super::level::{Level, LineQuality, SILENT_DBFS, dbfs, ulaw_dbfs};
use crate::g711::ulaw;

/// Samples judged at a time: 20 ms. Of half as much, the classifier is less sure, and speech is found later.
const STEP: usize = 160;
const STEP_MS: u32 = 20;
/// Of quiet audio, and of speech that was confirmed, the classifier hears one step in this time.
const SETTLED_STEP_MS: u64 = 200;
/// Levels below this never count as speech, in dB below full scale.
const QUIETEST_SPEECH_DBFS: f32 = -52.0;
/// Speech stands this far above the noise floor.
const ABOVE_FLOOR_DB: f32 = 9.0;
/// A floor below this would change nothing, and only take longer to rise.
const LOWEST_FLOOR_DBFS: f32 = QUIETEST_SPEECH_DBFS - ABOVE_FLOOR_DB;
/// The floor falls at once and rises this fast: 4 dB a second. It begins where the line begins.
const FLOOR_RISE_DB: f32 = 0.08;
/// A voice must have been audible for this long before it counts: shorter bursts are clicks.
const CONFIRM_MS: u32 = 60;
/// A pause as short as this does not end an utterance: stops and breaths.
const PAUSE_MS: u32 = 200;
/// An echo comes back within this time after it was played, telephone network included.
const ECHO_MS: u64 = 300;
/// An echo is at least this much weaker than what was played.
const ECHO_LOSS_DB: f32 = 12.0;

/// What one piece of caller audio holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Activity {
    /// Whether the piece belongs to speech that has lasted for 60 ms or more.
    pub speech: bool,
    /// Mean level of the last 20 ms judged, dB below full scale.
    pub level_dbfs: f32,
}

/// The state of WebRTC's classifier.
struct Classifier(Vad);

// SAFETY: the library keeps all state in the allocation that `Vad` owns, and none in threads or globals.
#[allow(unsafe_code)]
unsafe impl Send for Classifier {}

impl fmt::Debug for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Classifier")
    }
}

impl Classifier {
    fn is_voice(&mut self, step: &[i16; STEP]) -> bool {
        self.0.is_voice_segment(step).unwrap_or(false)
    }
}

/// Tells the caller's speech from noise, clicks and echo. Decides on speech a median 50 ms after it began on a quiet line;
/// `tests/detection.rs` prints how it does on others.
#[derive(Debug)]
pub struct SpeechDetector {
    classifier: Classifier,
    /// The beginning of a step whose rest has not come. Elsewhere: most pieces are whole steps and leave nothing.
    unfinished: Vec<i16>,
    floor_dbfs: Option<f32>,
    /// Audible steps in a row, up to `CONFIRM_MS`.
    audible_ms: u32,
    /// Whether the classifier, when last asked about them, took them for voice.
    voiced: bool,
    /// Time since the last voice, while in an utterance.
    quiet_ms: Option<u32>,
    level_dbfs: f32,
    now_ms: u64,
    /// Levels played and when they stop mattering, the loudest first and each later one weaker.
    played: VecDeque<(f32, u64)>,
    speech: Mean,
    noise: Mean,
    clipped: u64,
}

/// Mean power.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, mean_square: f32) {
        self.sum += f64::from(mean_square);
        self.count += 1;
    }

    fn dbfs(&self) -> Option<f32> {
        (self.count > 0).then(|| dbfs((self.sum / self.count as f64) as f32))
    }
}

impl Default for SpeechDetector {
    fn default() -> Self {
        Self {
            classifier: Classifier(Vad::new_with_rate_and_mode(SampleRate::Rate8kHz, VadMode::VeryAggressive)),
            unfinished: Vec::new(),
            floor_dbfs: None,
            audible_ms: 0,
            voiced: false,
            quiet_ms: None,
            level_dbfs: SILENT_DBFS,
            now_ms: 0,
            played: VecDeque::new(),
            speech: Mean::default(),
            noise: Mean::default(),
            clipped: 0,
        }
    }
}

impl SpeechDetector {
    /// Judges the next piece of the caller's μ-law, of any length; one that ends no step of 20 ms belongs to what the last one
    /// did. Allocates nothing, but for the first that does not end with a step.
    pub fn push(&mut self, ulaw: &[u8]) -> Activity {
        let (mut rest, mut speech) = (ulaw, None);
        if self.unfinished.is_empty() {
            // Most pieces are whole steps: those leave no trace in memory that nobody has looked at for 20 ms.
            let (steps, _) = ulaw.as_chunks::<STEP>();
            for step in steps {
                speech = speech.max(Some(self.judge(Level::of_ulaw(step), || step.map(ulaw::decode))));
            }
            rest = &ulaw[steps.len() * STEP..];
        }
        self.push_each(rest.iter().map(|it| ulaw::decode(*it)), speech)
    }

    /// Same for linear samples at 8 kHz.
    pub fn push_samples(&mut self, samples: impl IntoIterator<Item = i16>) -> Activity {
        self.push_each(samples, None)
    }

    fn push_each(&mut self, samples: impl IntoIterator<Item = i16>, mut speech: Option<bool>) -> Activity {
        for sample in samples {
            self.unfinished.push(sample);
            if let Ok(step) = <[i16; STEP]>::try_from(&self.unfinished[..]) {
                self.unfinished.clear();
                speech = speech.max(Some(self.judge(Level::of(&step), || step)));
            }
        }
        Activity { speech: speech.unwrap_or_else(|| self.is_speech()), level_dbfs: self.level_dbfs }
    }

    /// Whether the last step belonged to confirmed speech.
    fn is_speech(&self) -> bool {
        self.quiet_ms == Some(0)
    }

    /// Tells of μ-law on its way to the caller's ear, where it will have been played `in_ms` from now. For as long, and for
    /// the time an echo takes, the caller must be louder than its echo could be.
    pub fn played(&mut self, ulaw: &[u8], in_ms: u32) {
        let level = ulaw_dbfs(ulaw);
        while self.played.back().is_some_and(|(weaker, _)| *weaker <= level) {
            self.played.pop_back();
        }
        self.played.push_back((level, self.now_ms + u64::from(in_ms) + ECHO_MS));
    }

    /// What was on its way to the ear was thrown away; only echoes of what was heard can still come.
    pub fn cleared(&mut self) {
        for (_, until) in &mut self.played {
            *until = (*until).min(self.now_ms + ECHO_MS);
        }
    }

    /// What the next piece makes it look at outside of itself, for whoever wants to have that fetched from memory before. Only
    /// where it lies, as a guess: never to be followed.
    pub fn looks_next_at(&self) -> impl Iterator<Item = *const [u8]> {
        let ends = [self.played.front(), self.played.back()].into_iter().flatten();
        ends.map(|it| std::ptr::slice_from_raw_parts(std::ptr::from_ref(it).cast(), size_of_val(it)))
    }

    /// The line so far.
    pub fn line(&self) -> LineQuality {
        LineQuality { speech_dbfs: self.speech.dbfs(), noise_dbfs: self.noise.dbfs(), clipped: self.clipped }
    }

    /// Whether a step of that level belongs to confirmed speech. Most are not looked at any further, so that they need not be
    /// decoded.
    fn judge(&mut self, level: Level, step: impl FnOnce() -> [i16; STEP]) -> bool {
        self.now_ms += u64::from(STEP_MS);
        while self.played.front().is_some_and(|(_, until)| *until < self.now_ms) {
            self.played.pop_front();
        }
        self.level_dbfs = level.dbfs;
        self.clipped += u64::from(level.clipped);
        let floor = self.floor_dbfs.unwrap_or(level.dbfs).max(LOWEST_FLOOR_DBFS);
        let loud = level.dbfs > floor + ABOVE_FLOOR_DB;
        let echo_dbfs = self.played.front().map_or(SILENT_DBFS, |(loudest, _)| loudest - ECHO_LOSS_DB);
        self.floor_dbfs = Some(level.dbfs.min(floor + FLOOR_RISE_DB));
        let audible = loud && level.dbfs > echo_dbfs;
        self.audible_ms = if audible { (self.audible_ms + STEP_MS).min(CONFIRM_MS) } else { 0 };
        let lasting = self.audible_ms >= CONFIRM_MS;
        // The dearest judge, most of the detector's time, is asked last, about every step that would begin speech or resume it. The
        // beginning of a sound says least of what it is. Of the other steps it is asked about one in ten: of quiet ones, from which
        // it learns the noise of the line, and of those inside of speech, which it may then doubt.
        let open = audible && !self.voiced && (lasting || self.quiet_ms.is_some());
        if open || self.now_ms.is_multiple_of(SETTLED_STEP_MS) {
            self.voiced = self.classifier.is_voice(&step());
        }
        self.voiced &= audible;
        self.quiet_ms = match self.quiet_ms {
            None if self.voiced && lasting => Some(0),
            Some(_) if self.voiced => Some(0),
            Some(quiet) => Some(quiet + STEP_MS).filter(|it| *it < PAUSE_MS),
            None => None,
        };
        if self.is_speech() {
            self.speech.add(level.mean_square);
        } else if !loud && self.quiet_ms.is_none() && echo_dbfs < QUIETEST_SPEECH_DBFS {
            self.noise.add(level.mean_square);
        }
        self.is_speech()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Frame, SILENCE};

    const SPEECH: &[u8] = include_bytes!("../../../../fixtures/speech/en/caller-book.ulaw");

    #[test]
    fn silence_is_no_speech_and_speech_is() {
        let mut detector = SpeechDetector::default();
        for _ in 0..50 {
            assert!(!detector.push(Frame::SILENCE.ulaw()).speech);
        }
        let spoken = SPEECH.chunks(160).filter(|it| detector.push(it).speech).count();
        assert!(spoken * 160 > SPEECH.len() / 2, "{spoken} of {} frames", SPEECH.len() / 160);
        (0..20).for_each(|_| _ = detector.push(Frame::SILENCE.ulaw()));
        assert!(!detector.push(Frame::SILENCE.ulaw()).speech);
        let line = detector.line();
        assert!(line.snr_db().unwrap() > 40.0 && line.clipped == 0, "{line:?}");
    }

    #[test]
    fn pieces_may_be_of_any_length() {
        let heard = |size: usize| -> u32 {
            let mut detector = SpeechDetector::default();
            let spoken = SPEECH.chunks(size).filter(|it| detector.push(it).speech).count();
            (spoken * size / 800) as u32
        };
        assert!(heard(160).abs_diff(heard(80)) <= 4, "{} {}", heard(160), heard(80));
        assert!(heard(160).abs_diff(heard(10)) <= 4, "{} {}", heard(160), heard(10));
        let line = |size: usize| {
            let mut detector = SpeechDetector::default();
            SPEECH.chunks(size).for_each(|it| _ = detector.push(it));
            detector.line()
        };
        assert_eq!(line(160), line(7));
        assert!(!SpeechDetector::default().push(&[]).speech);
    }

    #[test]
    fn a_click_is_no_speech() {
        let mut detector = SpeechDetector::default();
        detector.push(&[SILENCE; 160]);
        let click: Vec<u8> = (0..160).map(|n| if n % 16 < 8 { 0x90 } else { 0x10 }).collect();
        assert!(!detector.push(&click).speech);
        assert!(!detector.push(&[SILENCE; 160]).speech);
    }

    #[test]
    fn the_echo_of_what_is_played_is_no_speech_and_a_louder_caller_is() {
        let weaker = |db: f32| -> Vec<u8> {
            let gain = 10_f32.powf(-db / 20.0);
            SPEECH.iter().map(|it| ulaw::encode((f32::from(ulaw::decode(*it)) * gain) as i16)).collect()
        };
        let spoken = |caller: &[u8], gated: bool| {
            let mut detector = SpeechDetector::default();
            let frames = caller.chunks(160).zip(SPEECH.chunks(160));
            frames
                .filter(|(caller, played)| {
                    if gated {
                        detector.played(played, 0);
                    }
                    detector.push(caller).speech
                })
                .count()
        };
        assert!(spoken(&weaker(14.0), false) > 20);
        assert_eq!(spoken(&weaker(14.0), true), 0);
        assert!(spoken(SPEECH, true) > 20);
    }

    #[test]
    fn where_the_levels_lie_is_told() {
        let mut detector = SpeechDetector::default();
        assert_eq!(detector.looks_next_at().count(), 0);
        detector.played(&[0x80; 160], 0);
        detector.played(&[0x90; 160], 0);
        let levels = [detector.played.front().unwrap(), detector.played.back().unwrap()];
        assert_ne!(levels[0], levels[1]);
        assert!(detector.looks_next_at().map(|it| it.addr()).eq(levels.map(|it| std::ptr::from_ref(it).addr())));
    }

    #[test]
    fn what_was_cleared_blocks_nobody() {
        let loud = Frame::from_ulaw(&[0x80; 160]);
        let blocked = |clear: bool| {
            let mut detector = SpeechDetector::default();
            detector.played(loud.ulaw(), 5000);
            if clear {
                detector.cleared();
            }
            (0..25).for_each(|_| _ = detector.push(Frame::SILENCE.ulaw()));
            SPEECH.chunks(160).all(|it| !detector.push(it).speech)
        };
        assert!(blocked(false));
        assert!(!blocked(true));
    }
}
