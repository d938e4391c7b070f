//! The whole story in virtual time: every provider, format and language, in memory, in a second or two.

use offhook::demo::{self, Format, Options, Provider};
use sim::Network;

fn play(provider: Provider, format: Format, language: &str, calls: usize) {
    play_under("", provider, format, language, calls);
}

fn play_under(prefix: &str, provider: Provider, format: Format, language: &str, calls: usize) {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::pause();
        let options = Options {
            provider,
            format,
            language: language.into(),
            calls,
            calls_max: calls + 10,
            prefix: prefix.into(),
            network: Network::memory(),
            virtual_time: true,
            print: std::env::var_os("SHOW_TIMELINE").is_some(),
            folder: folder.path().to_owned(),
        };
        let (report, stage) = demo::run(&options).await.unwrap();
        let failures: Vec<String> =
            report.failures().iter().map(|it| format!("{}: {}", it.step, it.found.clone().unwrap_err())).collect();
        assert!(failures.is_empty(), "{provider:?} {format:?} {language}:\n{}\n{}", failures.join("\n"), report.text);
        stage.strike().await;
    });
}

#[test]
fn openai_passthrough() {
    play(Provider::Openai, Format::Ulaw, "en", 1);
}

#[test]
fn openai_that_insists_on_24_khz() {
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
    play_under("/voiceclone", Provider::Openai, Format::Ulaw, "en", 1);
}
