//! Every stage of `media` alone, per 20 ms: conversion, detection, enhancement.

use std::sync::Arc;

use benches::{converters::noise, voice};
use criterion::{Criterion, criterion_group, criterion_main};
use media::detect::{BeepDetector, EchoDetector, SpeechDetector, dtmf};
use media::enhance::{Ambience, Bed, GainControl, NoiseSuppression, Stage};
use media::g711::ulaw;
use media::{Format, Rate, Transcoder};

fn stages(c: &mut Criterion) {
    let ulaw = voice();
    for rate in [Rate::Hz8000, Rate::Hz16000, Rate::Hz24000] {
        let (mut out, mut pcm) = (Vec::new(), Vec::new());
        let mut up = Transcoder::new(Format::Ulaw8k, Format::Pcm16(rate)).expect("one side is at 8 kHz");
        up.push(&ulaw, &mut pcm);
        c.bench_function(&format!("transcode/μ-law 8k→PCM {}k", rate.hz() / 1000), |b| {
            b.iter(|| {
                out.clear();
                up.push(&ulaw, &mut out);
                out.len()
            });
        });
        let mut down = Transcoder::new(Format::Pcm16(rate), Format::Ulaw8k).expect("one side is at 8 kHz");
        c.bench_function(&format!("transcode/PCM {}k→μ-law 8k", rate.hz() / 1000), |b| {
            b.iter(|| {
                out.clear();
                down.push(&pcm, &mut out);
                out.len()
            });
        });
    }
    let samples = ulaw.map(ulaw::decode);
    let mut speech = SpeechDetector::default();
    c.bench_function("detect/speech, quiet line", |b| b.iter(|| speech.push(&ulaw)));
    // Half a second of speech, half of silence, over and over: the noise floor stays low.
    let words = include_bytes!("../../fixtures/speech/en/caller-book.ulaw");
    let mut frames = words[..4000].chunks_exact(160).chain(std::iter::repeat_n(&[media::SILENCE; 160][..], 25)).cycle();
    c.bench_function("detect/speech, half of the time", |b| b.iter(|| speech.push(frames.next().expect("it never ends"))));
    let (mut keys, mut found) = (dtmf::Detector::default(), String::new());
    c.bench_function("detect/keys", |b| b.iter(|| keys.push(&samples, &mut found)));
    let mut beeps = BeepDetector::default();
    c.bench_function("detect/beeps", |b| b.iter(|| beeps.push(&samples)));
    let mut echo = EchoDetector::default();
    let second = noise(8000);
    echo.played(&second);
    echo.heard(&second);
    c.bench_function("detect/echo, comparing once", |b| b.iter(|| echo.compare()));
    let bed = Arc::new(Bed::new(&noise(16_000), 8000, -45.0).expect("it is loud and long enough"));
    let stages: [Box<dyn Stage>; 3] =
        [Box::new(NoiseSuppression::default()), Box::new(GainControl::default()), Box::new(Ambience::new(bed))];
    for mut stage in stages {
        let name = format!("enhance/{}", stage.name());
        c.bench_function(&name, |b| {
            b.iter(|| {
                let mut samples = samples;
                stage.process(&mut samples);
                samples
            });
        });
    }
}

criterion_group!(benches, stages);
criterion_main!(benches);
