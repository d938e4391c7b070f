//! `offhook convert` as others see it: bytes in, bytes out, files, messages.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use media::{Format, Rate, Transcoder};

const SPEECH: &[u8] = include_bytes!("../../../fixtures/speech/en/caller-book.ulaw");

fn convert(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_offhook"))
        .arg("convert")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    output
}

fn filtered(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let output = convert(arguments, input);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn refused(arguments: &[&str], input: &[u8]) -> String {
    let output = convert(arguments, input);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_filter_is_the_converter_of_a_call_whatever_the_pieces() {
    for (rate, format) in [("16000", Format::Pcm16(Rate::Hz16000)), ("24000", Format::Pcm16(Rate::Hz24000))] {
        let (mut high, mut low) = (Vec::new(), Vec::new());
        Transcoder::new(Format::Ulaw8k, format).unwrap().push(SPEECH, &mut high);
        Transcoder::new(format, Format::Ulaw8k).unwrap().push(&high, &mut low);
        for piece in ["1", "20", "100", "5000"] {
            let up = filtered(&["--from", "ulaw8k", "--to", "pcm16", "--rate", rate, "--chunk-ms", piece], SPEECH);
            assert!(up == high, "{rate}, pieces of {piece} ms");
            let down = filtered(&["--from", "pcm16", "--from-rate", rate, "--to", "ulaw8k", "--chunk-ms", piece], &up);
            assert!(down == low, "{rate}, pieces of {piece} ms");
        }
    }
    assert_eq!(filtered(&["--from", "ulaw8k", "--to", "ulaw8k"], SPEECH), SPEECH);
    assert_eq!(filtered(&["--from", "pcm16", "--to", "ulaw8k"], &[0; 144_000]), [0xff; 24_000]);
}

#[test]
fn rates_that_no_call_has_are_converted_too() {
    let input: Vec<u8> = vec![0; 2 * 44_100 + 1];
    let out = filtered(&["--from", "pcm16", "--from-rate", "44100", "--to", "pcm16", "--rate", "16000"], &input);
    assert_eq!(out.len(), 2 * 16_000);
    let out = filtered(&["--from", "alaw8k", "--to", "pcm16", "--rate", "22050"], &[0xD5; 8000]);
    assert_eq!(out.len(), 2 * 22_050);
}

#[test]
fn the_time_of_a_piece_is_printed_for_programs() {
    let output = convert(&["--from", "ulaw8k", "--to", "pcm16", "--bench", "50"], SPEECH);
    assert!(output.status.success() && output.stdout.is_empty());
    let said: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(said["ns_per_chunk"].as_f64().unwrap() > 0.0, "{said}");
}

#[test]
fn files_of_any_kind_become_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/files");
    for name in ["stereo-22k.mp3", "mono-44k.m4a", "stereo-48k-vorbis.ogg", "mono-48k.opus", "alaw-8k.wav"] {
        let input = fixtures.join(name).display().to_string();
        for output in ["telephone.wav", "small.opus", "bare.pcm"] {
            let told = convert(&[&input, &path(output), "--mono", "--rate", "8000"], &[]);
            let text = String::from_utf8(told.stderr).unwrap();
            assert!(told.status.success() && text.contains("1.5") && text.contains("LUFS"), "{name} → {output}: {text}");
        }
        let length = std::fs::metadata(path("bare.pcm")).unwrap().len();
        assert!(length.abs_diff(24_000) < 1600, "{name}: {length} bytes");
        let back = convert(&[&path("small.opus"), &path("again.ulaw")], &[]);
        assert!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
        assert_eq!(std::fs::metadata(path("again.ulaw")).unwrap().len() * 2, length);
    }
    assert!(!folder.path().join("small.opus.part").exists());
}

#[test]
fn what_is_wrong_is_said_with_its_fix_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let keep = folder.path().join("keep.wav").display().to_string();
    std::fs::write(&keep, "precious").unwrap();
    let nonsense = folder.path().join("nonsense.mp3").display().to_string();
    std::fs::write(&nonsense, [7; 9000]).unwrap();
    assert!(refused(&[&nonsense, &keep], &[]).contains("expected WAV, MP3"));
    assert_eq!(std::fs::read_to_string(&keep).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    assert!(refused(&[&keep, &keep], &[]).contains("name another file"));
    assert!(refused(&[&nonsense], &[]).contains("offhook convert INPUT OUTPUT"));
    assert!(refused(&["/nowhere/a.wav", &keep], &[]).contains("cannot be opened"));
    assert!(refused(&["--from", "pcm16"], &[]).contains("--to"));
    assert!(refused(&["--from", "ulaw8k", "--to", "pcm16", "--rate", "5"], &[]).contains("4000 to 192000 Hz"));
    assert!(refused(&["--from", "ulaw8k", "--from-rate", "16000", "--to", "pcm16"], &[]).contains("8000 Hz"));
    assert!(refused(&["--from", "ulaw8k", "--to", "pcm16", "--bench", "5"], &[]).contains("nothing to convert"));
}
