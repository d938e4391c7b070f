//! How fast speech is noticed, and what is taken for speech that is none, on lines of several kinds.
//!
//! `cargo test -p media --test detection -- --nocapture` prints the table.

use media::detect::SpeechDetector;
use media::g711::ulaw;

const FRAME: usize = 160;

/// Every utterance of the fixtures, at about −26 dBFS.
fn utterances() -> Vec<Vec<f32>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/speech");
    let mut files: Vec<_> = ["en", "ro"]
        .iter()
        .flat_map(|it| std::fs::read_dir(format!("{folder}/{it}")).unwrap())
        .map(|it| it.unwrap().path())
        .filter(|it| it.extension().is_some_and(|it| it == "ulaw"))
        .collect();
    files.sort();
    files.iter().map(|it| std::fs::read(it).unwrap().iter().map(|code| f32::from(ulaw::decode(*code))).collect()).collect()
}

/// Uniform in −1..1, the same every time.
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 as f32 / 2_147_483_648.0 - 1.0
    }
}

/// Brings a signal to a level, dB below full scale.
fn at(dbfs: f32, signal: impl Iterator<Item = f32>) -> Vec<f32> {
    let signal: Vec<f32> = signal.collect();
    let rms = (signal.iter().map(|it| it * it).sum::<f32>() / signal.len() as f32).sqrt();
    let gain = 32_768.0 * 10_f32.powf(dbfs / 20.0) / rms.max(1e-9);
    signal.iter().map(|it| it * gain).collect()
}

const SECONDS: usize = 60;

/// A minute of each kind of line, and what is played meanwhile.
fn lines() -> Vec<(&'static str, Vec<f32>, Vec<f32>)> {
    let length = SECONDS * 8000;
    let silence = || vec![0.0; length];
    let mut noise = Noise(1);
    let white = at(-40.0, (0..length).map(|_| noise.next()));
    // An engine and tyres as a telephone carries them: falling from 300 Hz, nothing below 200.
    let (mut low, mut rumble) = (0.0, 0.0);
    let car = at(
        -40.0,
        (0..length).map(|_| {
            low += 0.21 * (noise.next() - low);
            rumble += 0.145 * (low - rumble);
            low - rumble
        }),
    );
    let clicks: Vec<f32> = (0..length).map(|n| if n % 4000 < 8 { 12_000.0 * noise.next() } else { 0.0 }).collect();
    // A second long: longer than it takes to find that it is no voice.
    let gusts = at(-30.0, (0..length).map(|n| if n % 16_000 < 8_000 { noise.next() } else { 0.0 }));
    let voice: Vec<f32> = utterances().concat().into_iter().cycle().take(length).collect();
    let played = at(-20.0, voice.iter().copied());
    let echo = |db: f32| at(-20.0 + db, std::iter::repeat_n(0.0, 1200).chain(voice.iter().copied()).take(length));
    vec![
        ("quiet", at(-66.0, (0..length).map(|_| noise.next())), silence()),
        ("quiet caller, −46 dBFS", at(-66.0, (0..length).map(|_| noise.next())), silence()),
        ("white noise at −40 dBFS", white, silence()),
        ("car at −40 dBFS", car, silence()),
        ("clicks", clicks, silence()),
        ("gusts at −30 dBFS", gusts, silence()),
        ("echo of our voice, −30 dB", echo(-30.0), played.clone()),
        ("echo of our voice, −20 dB", echo(-20.0), played),
    ]
}

fn coded(signal: &[f32]) -> Vec<u8> {
    signal.iter().map(|it| ulaw::encode(it.round() as i16)).collect()
}

/// Runs a detector over a line; the frames in which speech began.
fn begins(line: &[f32], played: &[f32], gate: bool) -> Vec<usize> {
    let mut detector = SpeechDetector::default();
    let (mut begins, mut before) = (Vec::new(), false);
    for (index, (line, played)) in coded(line).chunks(FRAME).zip(coded(played).chunks(FRAME)).enumerate() {
        if gate {
            detector.played(played, 0);
        }
        let now = detector.push(line).speech;
        if now && !before {
            begins.push(index);
        }
        before = now;
    }
    begins
}

/// Milliseconds from the first 10 ms of voice to the decision, for an utterance two seconds into a line.
fn delay(utterance: &[f32], line: &[f32], played: &[f32]) -> Option<usize> {
    let start = 2 * 8000;
    let mut signal = line[..start + utterance.len()].to_vec();
    signal[start..].iter_mut().zip(utterance).for_each(|(a, b)| *a += b);
    let loudest = utterance.chunks(80).map(|it| it.iter().map(|it| it * it).sum::<f32>()).fold(0.0, f32::max);
    let onset = utterance.chunks(80).position(|it| it.iter().map(|it| it * it).sum::<f32>() > loudest / 1000.0)? * 10 + 2000;
    let found = begins(&signal, &played[..signal.len()], true).into_iter().map(|it| (it + 1) * 20).find(|it| *it > 2000)?;
    Some(found.saturating_sub(onset))
}

#[test]
fn speech_is_noticed_fast_and_nothing_else_is_speech() {
    let utterances = utterances();
    println!("{:<28}{:>8}{:>8}{:>8}{:>24}{:>16}", "line", "median", "90 %", "missed", "false starts a minute", "without gate");
    for (name, line, played) in lines() {
        let loudness = if name.starts_with("quiet caller") { -46.0 } else { -23.0 };
        let spoken = utterances.iter().map(|it| at(loudness, it.iter().copied()));
        let mut delays: Vec<Option<usize>> = spoken.map(|it| delay(&it, &line, &played)).collect();
        delays.sort_by_key(|it| it.unwrap_or(usize::MAX));
        let missed = delays.iter().filter(|it| it.is_none()).count();
        let (median, late) = (delays[delays.len() / 2].unwrap_or(9999), delays[delays.len() * 9 / 10].unwrap_or(9999));
        let (wrong, ungated) = (begins(&line, &played, true).len(), begins(&line, &played, false).len());
        println!("{name:<28}{median:>5} ms{late:>5} ms{missed:>8}{wrong:>24}{ungated:>16}");
        // Decisions come at the end of a 20 ms frame.
        let (slowest, missed_max) = match name {
            "quiet" | "clicks" => (100, 0),
            // Most of such an utterance is below what counts as speech.
            "quiet caller, −46 dBFS" => (400, 1),
            _ => (160, 0),
        };
        assert!(median <= slowest && missed <= missed_max, "{name}: median {median} ms, {missed} missed");
        // A noise that begins deceives the classifier until it has learned it.
        let wrong_max = if name.starts_with("gusts") { SECONDS / 2 } else { 0 };
        assert!(wrong <= wrong_max, "{name}: {wrong} false starts");
        if name.contains("−20 dB") {
            assert!(ungated > 10, "the gate is what keeps the echo out");
        }
    }
}
