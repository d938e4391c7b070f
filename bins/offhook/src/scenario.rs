//! `offhook sim`: small stories about one behaviour each, told by the simulated network; their timelines are kept beside
//! them and compared by a test.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bridge::LiveControl;
use call::{CallConfig, Confirm, HeardBy, Interruption, KeyAction, Meanwhile};
use serde::Deserialize;
use sim::{Behaviour, CallerScript, Party};
use store::Speaker;
use tokio::time::timeout;

use crate::stage::{CALLED, Format, Options, Provider, Stage, TENANT, conversation};

macro_rules! scenarios {
    ($($name:literal),* $(,)?) => {
        /// Every scenario: its name and its file.
        const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../scenarios/", $name, ".toml")))),*];
    };
}

scenarios!(
    "back-channel",
    "barge-in",
    "barge-in-by-words",
    "barge-in-by-our-own-ear",
    "controlled-from-outside",
    "failover",
    "farewell-interrupted",
    "full-duplex",
    "greeting-protected",
    "hang-up-key",
    "hanging-provider",
    "keyed-number",
    "longest-call",
    "lost-in-mid-sentence",
    "operator-busy",
    "operator-key",
    "outbound-opening",
    "prepared-while-ringing",
    "refused-key",
    "session-expires",
    "silent-caller",
);

/// Longest play of a story.
const PLAY_MAX: Duration = Duration::from_secs(300);

/// A story with its settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    #[serde(skip)]
    pub name: String,
    /// What it shows, in a sentence.
    pub about: String,
    /// Rows of the requirements that it shows.
    pub shows: Vec<String>,
    /// Who can do it.
    pub assistants: Vec<Provider>,
    /// Who answers when that one cannot.
    #[serde(default)]
    pub then: Option<Provider>,
    /// The caller's script.
    pub caller: String,
    /// The assistant's rules; by default the demo's.
    #[serde(default)]
    pub assistant: Option<String>,
    #[serde(default)]
    conversation: Conversation,
    #[serde(default)]
    provider: ProviderBehaviour,
    #[serde(default)]
    telephone: Telephone,
    /// What is done from outside, by milliseconds since the call was placed.
    #[serde(default)]
    outside: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Conversation {
    heard_by: Option<String>,
    /// `duck` or `pause`: interruptions must be proven.
    confirmed: Option<String>,
    protect_greeting: bool,
    callee_first_ms: Option<u64>,
    idle_s: Option<u64>,
    duration_s: Option<u64>,
    warn_before_s: Option<u64>,
    /// `transfer NAME` or `hang up`, by key.
    keys: BTreeMap<String, String>,
    last_resort: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ProviderBehaviour {
    breaks_after_ms: Option<u64>,
    answers_max: Option<usize>,
    session_max_ms: Option<u64>,
    setup_ms: Option<u64>,
    thinking_ms: Option<u64>,
    refuses: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Telephone {
    connecting_ms: u64,
    /// What becomes of calls to others: `completed`, `busy`, `no-answer`; by the name under which they are known.
    people: BTreeMap<String, String>,
}

/// How a story went.
#[derive(Debug)]
pub struct Story {
    /// `seconds  who  what`, in order of time.
    pub timeline: String,
    pub transcript: String,
    /// Steps of the caller's script that happened, of all.
    pub steps: (usize, usize),
}

/// The scenario of that name.
///
/// # Errors
/// When there is none; all names are listed then.
pub fn find(name: &str) -> Result<Scenario> {
    let names = || FILES.iter().map(|it| it.0).collect::<Vec<_>>().join(", ");
    let (name, text) = FILES
        .iter()
        .find(|it| it.0 == name)
        .with_context(|| format!("there is no scenario `{name}`: expected one of {}", names()))?;
    let scenario: Scenario = toml::from_str(text).with_context(|| format!("scenarios/{name}.toml"))?;
    Ok(Scenario { name: (*name).to_owned(), ..scenario })
}

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    FILES.iter().map(|it| find(it.0).expect("the scenarios are tested")).collect()
}

/// Names and what each shows.
pub fn table() -> String {
    all().iter().map(|it| format!("{:<26} {} [{}]\n", it.name, it.about, it.shows.join(", "))).collect()
}

impl Scenario {
    fn options(&self, provider: Provider, folder: &Path, virtual_time: bool) -> Result<Options> {
        let it = &self.conversation;
        let seconds = |it: Option<u64>| it.map(Duration::from_secs);
        let confirm = it.confirmed.as_deref().map(|word| Confirm {
            speech: Duration::from_millis(600),
            meanwhile: if word == "pause" { Meanwhile::Pause } else { Meanwhile::Duck },
            words_within: Duration::from_millis(1500),
            back_channel: call::BackChannel::default(),
        });
        let heard_by = match it.heard_by.as_deref() {
            None | Some("provider") => HeardBy::Provider,
            Some("ourselves") => HeardBy::Ourselves,
            Some("either") => HeardBy::Either,
            Some(other) => anyhow::bail!("heard_by `{other}`: expected provider, ourselves or either"),
        };
        let echo_guard = confirm.is_some() || heard_by != HeardBy::Provider;
        let key_actions = it.keys.iter().filter_map(|(key, action)| {
            let action = action.strip_prefix("transfer ").map_or(KeyAction::HangUp, |to| KeyAction::Transfer(to.into()));
            Some((key.chars().next()?, action))
        });
        let usual = conversation();
        let conversation = CallConfig {
            interruption: Interruption { heard_by, confirm, echo_guard },
            protect_greeting: it.protect_greeting,
            callee_first: it.callee_first_ms.map(Duration::from_millis),
            idle_after: seconds(it.idle_s),
            duration_max: seconds(it.duration_s).unwrap_or(usual.duration_max),
            warn_before: seconds(it.warn_before_s),
            key_actions: key_actions.collect(),
            ..usual
        };
        let destinations = self.telephone.people.keys().enumerate();
        let simulated = Options::simulated(provider, Format::Ulaw, folder);
        Ok(Options {
            conversation,
            then: self.then,
            destinations: destinations.map(|(index, name)| (name.clone(), format!("+1555010{index:04}"))).collect(),
            last_resort: it.last_resort.clone(),
            network: if virtual_time { sim::Network::memory() } else { sim::Network::Loopback },
            virtual_time,
            print: !virtual_time,
            ..simulated
        })
    }

    fn change(&self, behaviour: &mut Behaviour) -> Result<()> {
        let it = &self.provider;
        if let Some(script) = &self.assistant {
            behaviour.script = script.parse()?;
        }
        let milliseconds = |it: Option<u64>| it.map(Duration::from_millis);
        behaviour.breaks_after = milliseconds(it.breaks_after_ms);
        behaviour.answers_max = it.answers_max.unwrap_or(behaviour.answers_max);
        behaviour.session_max = milliseconds(it.session_max_ms).unwrap_or(behaviour.session_max);
        behaviour.setup = milliseconds(it.setup_ms).unwrap_or(behaviour.setup);
        behaviour.thinking = milliseconds(it.thinking_ms).unwrap_or(behaviour.thinking);
        if it.refuses {
            behaviour.api_key = "a key that nobody has".into();
        }
        Ok(())
    }

    /// Plays the story.
    ///
    /// # Errors
    /// When something could not be started, or the story does not end.
    pub async fn play(&self, provider: Provider, folder: &Path, virtual_time: bool) -> Result<Story> {
        std::fs::create_dir_all(folder)?;
        let options = self.options(provider, folder, virtual_time)?;
        let mut changed = Ok(());
        let mut stage = Stage::set_with(&options, |it| changed = self.change(it)).await?;
        changed?;
        stage.telephone.connecting = Duration::from_millis(self.telephone.connecting_ms);
        for (name, status) in &self.telephone.people {
            let status = ["completed", "busy", "no-answer"].into_iter().find(|it| it == status);
            stage
                .telephone
                .people
                .insert(options.destinations[name].clone(), status.context("expected completed, busy or no-answer")?);
        }
        let script: CallerScript = self.caller.parse()?;
        let begun = tokio::time::Instant::now();
        let outside = async {
            let order = |(at, what): (&String, &String)| {
                anyhow::Ok((
                    at.parse().context("`outside` wants milliseconds")?,
                    what.parse::<LiveControl>().map_err(anyhow::Error::msg)?,
                ))
            };
            let mut orders = self.outside.iter().map(order).collect::<Result<Vec<(u64, LiveControl)>>>()?;
            orders.sort_by_key(|it| it.0);
            for (at, control) in orders {
                tokio::time::sleep_until(begun + Duration::from_millis(at)).await;
                let directory = stage.server.bridge.directory();
                for call in directory.live_calls() {
                    directory.control(&call, &at.to_string(), control.clone()).await?;
                }
            }
            anyhow::Ok(())
        };
        let playing = async {
            let (outcome, ordered) = futures::future::join(stage.telephone.ring("+15550100001", CALLED, script), outside).await;
            ordered?;
            stage.server.bridge.idle().await;
            stage.server.ledger.journal().flush().await;
            anyhow::Ok(outcome)
        };
        let outcome = timeout(PLAY_MAX, playing).await.context("the story does not end")??;
        let scope = stage.server.store.tenant(TENANT);
        let call = scope.calls(1).await?.pop().context("the call is in no record")?;
        let mut transcript = String::new();
        for line in scope.transcript(&call.id).await? {
            let who = if line.speaker == Speaker::Caller { "caller" } else { "assistant" };
            transcript.push_str(&format!("{who:<9}  {}{}\n", line.text, if line.cut { " …" } else { "" }));
        }
        let mut lines: Vec<(Duration, &str, String)> = stage.told().into_iter().map(|(at, it)| (at, "offhook", it)).collect();
        lines.extend(
            stage
                .timeline
                .moments()
                .into_iter()
                .map(|(at, party, it)| (at, if party == Party::Telephone { "telephone" } else { "provider" }, it.to_string())),
        );
        lines.sort_by_key(|it| it.0);
        let timeline =
            lines.iter().map(|(at, who, what)| format!("{:>6.2}  {who:<9}  {what}\n", at.as_secs_f64())).collect::<String>();
        // Ids differ from play to play.
        let timeline = timeline.replace(&call.id, "CALL");
        stage.strike().await;
        Ok(Story { timeline, transcript, steps: outcome.steps })
    }
}
