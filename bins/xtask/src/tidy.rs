//! Rules of the repository, as tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{fixtures, root};

/// Who may import whom. A new edge is a change of the design: it is made here, with its reason.
const WALLS: [(&str, &[&str]); 14] = [
    ("media", &[]),
    ("wire", &[]),
    ("call", &["media"]),
    ("bridge", &["call", "media", "wire"]),
    ("twilio", &[]),
    ("store", &[]),
    ("desk", &["bridge", "call", "store", "twilio"]),
    // Lists and details are questions to the store; decisions are the desk's.
    ("control", &["bridge", "desk", "store", "twilio"]),
    // The simulators know the same protocols as the bridge, and nothing of the bridge.
    ("sim", &["media", "twilio", "wire"]),
    // The server knows of sound only for `convert`, phrases and for judging the demo's recording; of calls, their settings.
    ("offhook", &["bridge", "call", "control", "desk", "media", "sim", "store", "twilio"]),
    ("benches", &["call", "media", "wire"]),
    // Knows the server as an operator does: as a program, and by what is on record; speaks the peers' protocols itself, because a
    // simulator that judges every message costs more than the server that it would measure.
    ("dialer", &["media", "sim", "store", "testbed", "twilio", "wire"]),
    // Only tests and the dialer know it.
    ("testbed", &[]),
    ("xtask", &[]),
];

/// Outside crates that only some rooms may know.
const RESERVED: [(&str, &[&str]); 5] = [
    ("sqlx", &["store"]),
    ("quick-xml", &["twilio", "sim"]),
    ("axum", &["control", "sim", "offhook"]),
    ("tokio", &["bridge", "store", "desk", "control", "sim", "offhook", "testbed", "dialer", "twilio"]),
    ("clap", &["offhook", "dialer", "xtask"]),
];

/// Direct dependencies of every member, development ones left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let name = |it: &serde_json::Value| it["name"].as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().expect("there are packages");
    packages
        .iter()
        .map(|package| {
            let direct = package["dependencies"].as_array().into_iter().flatten().filter(|it| it["kind"].is_null());
            (name(package), direct.map(name).collect())
        })
        .collect()
}

#[test]
fn walls_stand() {
    let dependencies = dependencies();
    let walls: BTreeMap<&str, &[&str]> = WALLS.into();
    assert_eq!(dependencies.keys().map(String::as_str).collect::<Vec<_>>(), walls.keys().copied().collect::<Vec<_>>(), "members");
    for (member, direct) in &dependencies {
        let imports: Vec<&str> = direct.iter().map(String::as_str).filter(|it| walls.contains_key(it)).collect();
        assert_eq!(imports, walls[member.as_str()], "imports of {member}");
        for (outside, allowed) in RESERVED {
            assert!(!direct.contains(outside) || allowed.contains(&member.as_str()), "{member} must not know {outside}");
        }
    }
}

/// Files that git tracks or would track.
fn files() -> Vec<PathBuf> {
    let list = Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root()).output();
    let list = list.expect("git runs").stdout;
    String::from_utf8(list).expect("names are UTF-8").lines().map(|it| root().join(it)).filter(|it| it.is_file()).collect()
}

fn text_files(extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let wanted = |it: &PathBuf| it.extension().and_then(|it| it.to_str()).is_some_and(|it| extensions.contains(&it));
    files().into_iter().filter(wanted).map(|it| (it.clone(), fs::read_to_string(&it).unwrap_or_default())).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for (file, text) in text_files(&["md"]) {
        for target in text.split("](").skip(1).filter_map(|it| it.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            let outside = target.contains("://") || path.is_empty();
            // Rust paths in crate documents are resolved by rustdoc.
            let item = path.contains("::") || (!path.contains('.') && !path.contains('/'));
            if !outside && !item && !file.parent().unwrap_or(Path::new("")).join(path).exists() {
                broken.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn fixtures_are_what_they_were() {
    fixtures::check(root()).unwrap();
}

#[test]
fn only_binaries_read_the_environment() {
    for (file, text) in text_files(&["rs"]) {
        let library =
            file.strip_prefix(root().join("crates")).is_ok_and(|it| !it.components().any(|it| it.as_os_str() == "tests"));
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let in_tests = file.file_name().is_some_and(|it| it == "tests.rs");
        assert!(!library || in_tests || !code.contains("env::var"), "{} reads the environment", file.display());
    }
}

#[test]
fn every_room_has_its_readme() {
    for folder in ["crates", "bins", "fixtures"] {
        for entry in fs::read_dir(root().join(folder)).expect("the folder is there") {
            let room = entry.expect("it can be read").path();
            assert!(!room.is_dir() || room.join("README.md").exists(), "{} has no README.md", room.display());
        }
    }
}

/// Lessons of other bridges that must not be learned again, by their numbers in the requirements, and those of
/// them that no conversation can show.
const LESSONS: [std::ops::RangeInclusive<u32>; 2] = [1..=37, 44..=60];
/// 26: where a server stands is its operator's choice.
const NOT_OURS: [u32; 1] = [26];

#[test]
fn every_lesson_is_named_by_a_test() {
    let named: BTreeSet<u32> = text_files(&["rs", "toml"])
        .iter()
        .flat_map(|(_, text)| text.split("C-").skip(1))
        .filter_map(|it| it.split(|it: char| !it.is_ascii_digit()).next()?.parse().ok())
        .collect();
    let missing: Vec<u32> = LESSONS.into_iter().flatten().filter(|it| !named.contains(it) && !NOT_OURS.contains(it)).collect();
    assert!(missing.is_empty(), "no test names C-{missing:?}");
}

#[test]
fn nothing_is_left_unfinished() {
    // Spelt in two pieces, or this file would find itself.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ign", "ore"),
    ];
    for (file, text) in text_files(&["rs", "md", "toml"]) {
        for mark in marks {
            assert!(!text.contains(mark), "{} holds {mark}", file.display());
        }
    }
}
