//! The whole story in virtual time: every provider, format and language, in memory, in a second or two.

use std::path::Path;
use std::sync::Arc;

use bridge::SoundPlan;
use media::enhance::Bed;
use offhook::demo;
use offhook::stage::{Format, Options, Provider};
use sim::Behaviour;

fn options(provider: Provider, format: Format, language: &str, calls: usize) -> Options {
    Options {
        language: language.into(),
        calls,
        calls_max: calls + 10,
        print: std::env::var_os("SHOW_TIMELINE").is_some(),
        ..Options::simulated(provider, format, Path::new(""))
    }
}

fn play(provider: Provider, format: Format, language: &str, calls: usize) {
    play_with(options(provider, format, language, calls));
}

fn play_with(options: Options) {
    let name = format!("{:?} {:?} {} {:?}", options.provider, options.format, options.language, options.sound);
    let (failures, text) = failures(options, |_| ());
    assert!(failures.is_empty(), "{name}:\n{}\n{text}", failures.join("\n"));
}

/// The steps that did not happen as they should, and the report.
fn failures(options: Options, change: impl FnOnce(&mut Behaviour)) -> (Vec<String>, String) {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { folder: folder.path().to_owned(), ..options };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::pause();
        let (report, stage) = demo::run_with(&options, change).await.unwrap();
        let failures = report.failures().iter().map(|it| format!("{}: {}", it.step, it.found.clone().unwrap_err())).collect();
        stage.strike().await;
        (failures, report.text)
    })
}

#[test]
fn openai_passthrough() {
    // C-25, C-28: transcript, tools and latency of every turn are in the record.
    play(Provider::Openai, Format::Ulaw, "en", 1);
}

#[test]
fn openai_that_insists_on_24_khz() {
    // C-16.
    play(Provider::Openai, Format::Pcm16, "en", 1);
}

#[test]
fn openai_that_announces_another_format_than_it_sends() {
    play(Provider::Openai, Format::Lies, "en", 1);
}

#[test]
fn elevenlabs_passthrough() {
    play(Provider::Elevenlabs, Format::Ulaw, "en", 1);
}

#[test]
fn elevenlabs_that_insists_on_16_khz() {
    // C-17.
    play(Provider::Elevenlabs, Format::Pcm16, "en", 1);
}

#[test]
fn romanian() {
    play(Provider::Openai, Format::Ulaw, "ro", 1);
    play(Provider::Elevenlabs, Format::Pcm16, "ro", 1);
}

#[test]
fn ten_calls_at_a_time() {
    play(Provider::Openai, Format::Pcm16, "en", 10);
}

#[test]
fn under_a_path_prefix() {
    play_with(Options { prefix: "/voiceclone".into(), ..options(Provider::Openai, Format::Ulaw, "en", 1) });
}

#[test]
fn with_every_enhancement() {
    // C-22.
    let mut noise = 1_u32;
    let room: Vec<i16> = (0..40_000)
        .map(|_| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 20) as i16 - 2048
        })
        .collect();
    let ambience = Some(Arc::new(Bed::new(&room, 8000, -50.0).unwrap()));
    // The simulated listeners compare loudness over time: suppression and gain control together are too much for them.
    for sound in [
        SoundPlan { noise_suppression: true, gain_control: false, ambience: ambience.clone() },
        SoundPlan { noise_suppression: false, gain_control: true, ambience },
    ] {
        for (provider, format) in [(Provider::Openai, Format::Pcm16), (Provider::Elevenlabs, Format::Ulaw)] {
            play_with(Options { sound: sound.clone(), ..options(provider, format, "en", 1) });
        }
    }
}

#[test]
fn a_step_that_does_not_happen_is_named() {
    let forgetful = |it: &mut Behaviour| it.script = "start: say greeting\nhear ask-hours: say hours".parse().unwrap();
    let (failures, _) = failures(options(Provider::Openai, Format::Ulaw, "en", 1), forgetful);
    for step in ["caller hears the new answer to its end", "assistant calls end_call", "nobody complains", "record: completed"] {
        assert!(failures.iter().any(|it| it.starts_with(step)), "{step} is not among\n{}", failures.join("\n"));
    }
    assert!(!failures.iter().any(|it| it.starts_with("caller hears the greeting")), "{failures:?}");
}
