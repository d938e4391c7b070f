//! G.711, resampling, speech detection and the format sniffer alone, per 20 ms.

use benches::voice;
use criterion::{Criterion, criterion_group, criterion_main};
use media::detect::SpeechDetector;
use media::{Format, Rate, Transcoder};

fn codec(c: &mut Criterion) {
    let ulaw = voice();
    for rate in [Rate::Hz8000, Rate::Hz16000, Rate::Hz24000] {
        let (mut out, mut pcm) = (Vec::new(), Vec::new());
        let mut up = Transcoder::new(Format::Ulaw8k, Format::Pcm16(rate)).expect("one side is μ-law");
        up.push(&ulaw, &mut pcm);
        c.bench_function(&format!("transcode/μ-law 8k→PCM {}k", rate.hz() / 1000), |b| {
            b.iter(|| {
                out.clear();
                up.push(&ulaw, &mut out);
                out.len()
            });
        });
        let mut down = Transcoder::new(Format::Pcm16(rate), Format::Ulaw8k).expect("one side is μ-law");
        c.bench_function(&format!("transcode/PCM {}k→μ-law 8k", rate.hz() / 1000), |b| {
            b.iter(|| {
                out.clear();
                down.push(&pcm, &mut out);
                out.len()
            });
        });
    }
    let mut detector = SpeechDetector::default();
    c.bench_function("detect/speech", |b| b.iter(|| detector.push(&ulaw)));
}

criterion_group!(benches, codec);
criterion_main!(benches);
