#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = wire::twilio::FromTwilio::parse(text);
    let _ = wire::openai::ServerEvent::parse(text);
    let _ = wire::elevenlabs::ServerEvent::parse(text);
    let _ = wire::live::ServerEvent::parse(text);
    let mut bytes = Vec::new();
    if wire::audio::decode(text, &mut bytes).is_ok() {
        let mut again = String::new();
        wire::audio::encode(&bytes, &mut again);
        let mut twice = Vec::new();
        wire::audio::decode(&again, &mut twice).expect("what was encoded can be decoded");
        assert_eq!(bytes, twice);
    }
});
