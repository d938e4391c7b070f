//! Every scenario goes as its kept timeline says: the same things happen to each party in the same order, at the same time.
//! `UPDATE_TIMELINES=1 cargo test -p offhook --test scenarios` writes them anew; look at the difference before you keep it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use offhook::scenario;
use offhook::stage::Provider;

/// Times may differ by this many seconds: who of two parties is first within an instant is nobody's promise.
const TOLERANCE: f64 = 0.15;

fn kept(name: &str, provider: Provider) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("scenarios/{name}.{}.txt", provider.name()))
}

/// What happened to each party, with times.
fn parties(timeline: &str) -> BTreeMap<&str, Vec<(f64, &str)>> {
    let mut parties: BTreeMap<&str, Vec<(f64, &str)>> = BTreeMap::new();
    for line in timeline.lines() {
        let mut words = line.split_whitespace();
        let (at, who) = (words.next().unwrap().parse().unwrap(), words.next().unwrap());
        let what = line.split_once(who).unwrap().1.trim();
        parties.entry(who).or_default().push((at, what));
    }
    parties
}

/// The first thing that is not as it was.
fn difference(kept: &str, played: &str) -> Option<String> {
    let (kept, played) = (parties(kept), parties(played));
    for who in ["telephone", "provider", "offhook"] {
        let (kept, played) = (kept.get(who).cloned().unwrap_or_default(), played.get(who).cloned().unwrap_or_default());
        for (index, expected) in kept.iter().enumerate() {
            match played.get(index) {
                Some(found) if found.1 == expected.1 && (found.0 - expected.0).abs() <= TOLERANCE => (),
                found => return Some(format!("{who}: expected {expected:?}, found {found:?}")),
            }
        }
        if played.len() > kept.len() {
            return Some(format!("{who}: {:?} is new", played[kept.len()]));
        }
    }
    None
}

#[test]
fn every_scenario_goes_as_kept() {
    let update = std::env::var_os("UPDATE_TIMELINES").is_some();
    let mut wrong = Vec::new();
    for scenario in scenario::all() {
        for provider in &scenario.assistants {
            let folder = tempfile::tempdir().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let story = runtime.block_on(async {
                tokio::time::pause();
                scenario.play(*provider, folder.path(), true).await.unwrap_or_else(|error| panic!("{}: {error:#}", scenario.name))
            });
            if story.steps.0 != story.steps.1 {
                wrong.push(format!(
                    "{} with {provider:?}: {:?} steps of the caller happened\n{}",
                    scenario.name, story.steps, story.timeline
                ));
                continue;
            }
            let path = kept(&scenario.name, *provider);
            let text =
                format!("{}{}", story.timeline, story.transcript.lines().map(|it| format!("# {it}\n")).collect::<String>());
            if update {
                std::fs::write(&path, text).unwrap();
                continue;
            }
            let expected = std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{} is not kept", path.display()));
            let split = |text: &str| -> (String, String) {
                let (said, happened): (Vec<&str>, Vec<&str>) = text.lines().partition(|it| it.starts_with('#'));
                (happened.join("\n"), said.join("\n"))
            };
            let ((happened, said), (played, told)) = (split(&expected), split(&text));
            if let Some(difference) = difference(&happened, &played) {
                wrong.push(format!("{} with {provider:?}: {difference}", scenario.name));
            }
            if said != told {
                wrong.push(format!("{} with {provider:?}: the transcript is\n{told}\nand was\n{said}", scenario.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
