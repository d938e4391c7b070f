//! `cargo xtask fixtures`: makes the speech and the checksums under `fixtures/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

/// Folders whose files are pinned by a `SHA256SUMS` beside them.
const SETS: [&str; 6] =
    ["fixtures/speech", "fixtures/files", "fixtures/openai", "fixtures/elevenlabs", "fixtures/twilio", "crates/desk/phrases"];

/// The kinds of file a customer may upload, with what makes each: options of ffmpeg between input and output.
const FILES: [(&str, &[&str]); 7] = [
    ("stereo-22k.mp3", &["-ar", "22050", "-ac", "2", "-b:a", "48k"]),
    ("mono-44k.m4a", &["-ar", "44100", "-c:a", "aac", "-b:a", "48k"]),
    ("mono-44k.aac", &["-ar", "44100", "-c:a", "aac", "-b:a", "48k", "-f", "adts"]),
    ("stereo-48k-vorbis.ogg", &["-ar", "48000", "-ac", "2", "-c:a", "libvorbis", "-q:a", "0", "-page_duration", "200000"]),
    ("mono-48k.opus", &["-ar", "48000", "-c:a", "libopus", "-b:a", "24k", "-page_duration", "200000"]),
    ("alaw-8k.wav", &["-ar", "8000", "-c:a", "pcm_alaw"]),
    ("24bit-16k.wav", &["-ar", "16000", "-c:a", "pcm_s24le"]),
];

/// Speaks every line of `fixtures/speech/utterances.txt` and writes the checksums anew.
///
/// Needs the Debian packages `espeak-ng`, `sox` and `ffmpeg`; the tests need none of them.
pub(crate) fn make(root: &Path) -> Result<()> {
    for line in fs::read_to_string(root.join("fixtures/speech/utterances.txt"))?.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (head, text) = line.split_once(": ").with_context(|| format!("`{line}` lacks `: `"))?;
        let [language, role, name] = head.split(' ').collect::<Vec<_>>()[..] else {
            bail!("`{head}` is not `language role name`")
        };
        speak(root, language, role, name, text)?;
        println!("{language} {role} {name}");
    }
    let greeting = root.join("fixtures/speech/en/assistant-farewell.pcm24");
    for (name, options) in FILES {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-y", "-f", "s16le", "-ar", "24000", "-ac", "1", "-t", "1.5", "-i"]).arg(&greeting);
        // Without versions and dates, so that the same input gives the same bytes.
        ffmpeg.args(["-bitexact", "-map_metadata", "-1"]).args(options).arg(root.join("fixtures/files").join(name));
        run(&mut ffmpeg)?;
        println!("{name}");
    }
    for set in SETS {
        fs::write(root.join(set).join("SHA256SUMS"), sums(&root.join(set))?)?;
    }
    Ok(())
}

/// Compares every pinned file with its checksum.
///
/// # Errors
/// Names the first set that differs.
#[cfg(test)]
pub(crate) fn check(root: &Path) -> Result<()> {
    for set in SETS {
        let pinned = fs::read_to_string(root.join(set).join("SHA256SUMS")).with_context(|| format!("{set}/SHA256SUMS"))?;
        ensure!(
            pinned == sums(&root.join(set))?,
            "{set} differs from its SHA256SUMS: run `cargo xtask fixtures` if that is meant"
        );
    }
    Ok(())
}

fn speak(root: &Path, language: &str, role: &str, name: &str, text: &str) -> Result<()> {
    // The caller is another voice than the assistant.
    let (voice, pitch) = match (language, role) {
        ("en", "caller") => ("en-gb", "35"),
        ("en", _) => ("en-us", "60"),
        ("ro", "caller") => ("ro", "35"),
        ("ro", _) => ("ro", "60"),
        _ => bail!("no voice for {language}"),
    };
    let folder = if role == "phrase" {
        root.join("crates/desk/phrases").join(language)
    } else {
        root.join("fixtures/speech").join(language)
    };
    fs::create_dir_all(&folder)?;
    let scratch = tempfile::tempdir()?;
    let spoken = scratch.path().join("spoken.wav");
    run(Command::new("espeak-ng").args(["-v", voice, "-p", pitch, "-s", "165", "-w"]).arg(&spoken).arg(text))?;
    let stem = if role == "phrase" { name.to_owned() } else { format!("{role}-{name}") };
    // A breath after our own phrases: what follows them is somebody else's sentence.
    let breath: &[&str] = if role == "phrase" { &["pad", "0", "0.45"] } else { &[] };
    // -D: no dither, so that the same input gives the same bytes.
    let sox = |rate: &str, encoding: [&str; 4], file: PathBuf| {
        let mut sox = Command::new("sox");
        sox.arg("-D")
            .arg(&spoken)
            .args(["-r", rate, "-c", "1", "-t", "raw"])
            .args(encoding)
            .arg(file)
            .args(["norm", "-8"])
            .args(breath);
        run(&mut sox)
    };
    sox("8000", ["-e", "u-law", "-b", "8"], folder.join(format!("{stem}.ulaw")))?;
    if role != "phrase" {
        sox("24000", ["-e", "signed", "-b", "16"], folder.join(format!("{stem}.pcm24")))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("{program} is missing: `apt-get install espeak-ng sox ffmpeg`"))?;
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}

fn sums(folder: &Path) -> Result<String> {
    let mut files = Vec::new();
    walk(folder, &mut files)?;
    files.sort();
    let mut text = String::new();
    for file in files {
        let name = file.strip_prefix(folder)?.display().to_string();
        if name != "SHA256SUMS" && name != "README.md" {
            let digest: String = Sha256::digest(fs::read(&file)?).iter().map(|byte| format!("{byte:02x}")).collect();
            text.push_str(&format!("{digest}  {name}\n"));
        }
    }
    Ok(text)
}

/// Every file below `folder`.
pub(crate) fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
