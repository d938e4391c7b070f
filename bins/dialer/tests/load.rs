//! Small versions of the load runs, with the programs as they were built for tests: what they find of lateness says nothing, what
//! they find of frames and sockets does.

use std::path::PathBuf;
use std::process::Command;

use dialer::load::machine;
use serde_json::Value;

/// Runs `dialer` as a person would; returns what it wrote for programs.
fn dialer(arguments: &str) -> Option<Value> {
    if machine::cores() < 2 {
        println!("not run: the server wants a processor of its own");
        return None;
    }
    let program = PathBuf::from(env!("CARGO_BIN_EXE_dialer"));
    // Built with the workspace, beside it.
    let offhook = program.with_file_name("offhook");
    assert!(offhook.exists(), "build the workspace first: cargo build --workspace");
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("found.json");
    let output = Command::new(&program).args(arguments.split(' ')).arg("--json").arg(&json).output().unwrap();
    let text = std::fs::read_to_string(&json);
    Some(serde_json::from_str(&text.unwrap_or_else(|_| panic!("{arguments}: {output:?}"))).unwrap())
}

fn assert_whole(run: &Value) {
    let step = &run["steps"][0];
    for what in ["lost", "repeated", "foreign", "streams_lost"] {
        assert_eq!(step[what], 0, "{what}: {step}");
    }
    for journey in ["round_trip", "up", "down"] {
        assert!(step[journey]["count"].as_u64() > Some(300), "{journey}: {step}");
    }
}

#[test]
fn every_frame_comes_back_once_to_its_own_call() {
    for setup in ["--target relay", "--service openai", "--service elevenlabs --audio pcm", "--audio pcm --tls --recording"] {
        if let Some(run) = dialer(&format!("load --calls 8 --seconds 3 {setup}")) {
            assert_whole(&run);
        }
    }
}

#[test]
fn interruptions_are_answered_by_clear_and_turns_by_sound() {
    for service in ["openai", "elevenlabs"] {
        let Some(run) = dialer(&format!("load --calls 6 --seconds 9 --behaviour converse --service {service}")) else { return };
        let step = &run["steps"][0];
        for what in ["to_clear", "answer", "first_audio", "webhook"] {
            assert!(step[what]["count"].as_u64() > Some(3), "{what}: {step}");
        }
        let (pressed, told) = (step["keys_pressed"].as_u64().unwrap(), step["keys_told"].as_u64().unwrap());
        // A key that is pressed at the end of the window is told behind it.
        assert!(told > 0 && told <= pressed && told + 6 >= pressed, "{told} of {pressed} keys were told: {step}");
    }
}

/// C-33: what one call does is not the others' trouble.
#[test]
fn a_hostile_call_is_ended_and_takes_no_frame_from_others() {
    let Some(found) = dialer("hostile --calls 6 --rounds 1 --seconds 4") else { return };
    for it in found.as_array().unwrap() {
        for what in ["lost", "repeated", "foreign", "streams_lost"] {
            assert_eq!(it["with"][what], 0, "{what}: {it}");
        }
        let to_be_ended = ["flood", "garbage", "huge"].contains(&it["hostility"].as_str().unwrap());
        assert!(!to_be_ended || it["ended_after"].is_number(), "{it}");
    }
}
