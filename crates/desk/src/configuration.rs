//! Who answers which number: what the operator's file says, and what tenants have published, as it is now. What was last known
//! lies on disk, so that calls are answered while the database is away.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bridge::AssistantPlan;
use jiff::Timestamp;
use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use store::{ConfigurationRow, Store, StoreError};
use twilio::is_e164;
use utoipa::ToSchema;

use crate::callers::Callers;
use crate::ladder::{Ladder, Person, Rung, Schedule, Sentence};
use crate::outbound::{Outbound, OutboundDefaults, Policy};
use crate::phrases::Language;
use crate::routes::{Route, Settings};

/// What was last known is used for so long: 24 hours, in which somebody mends the database.
const SNAPSHOT_LIFE_MS: i64 = 24 * 3_600_000;
/// What is on disk says at least so often that it was right.
const SNAPSHOT_AGE_MS: i64 = 600_000;
/// Longest wait for the database at the start, before what is on disk is taken.
const START_WAIT: Duration = Duration::from_secs(3);
/// Largest document of a tenant, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// What a tenant configures: the whole of it, as one document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Document {
    /// Calls at a time; without it as many as the servers take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_max: Option<u32>,
    /// By name.
    pub assistants: BTreeMap<String, Assistant>,
    /// What else may answer, by a name that no assistant has.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<String, RouteKind>,
    /// By number, in E.164.
    pub numbers: BTreeMap<String, Number>,
    /// Who may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callers: Option<Callers>,
    /// Calls that the tenant makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound: Option<Outbound>,
}

/// Who answers. What is not said here is as the operator set it for everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Assistant {
    /// `openai`, `elevenlabs`, `openai-live`, in the order in which they are tried.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<String>,
    /// `en` or `ro`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The prompt; OpenAI's, and ElevenLabs' where the agent permits it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// How to open the call; with ElevenLabs the first message itself, where the agent permits it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greeting: Option<String>,
    /// A voice of the provider's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voice: Option<String>,
    /// ElevenLabs' agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
}

/// What may answer a call beside an assistant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RouteKind {
    /// Somebody is rung.
    Dial {
        /// E.164.
        number: String,
        /// Longest ringing, 5 to 600; default 25.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<u32>,
    },
    /// Something is said, and the call ends.
    Message {
        /// 1 to 1000 characters.
        text: String,
        /// `en` or `ro`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        language: Option<String>,
    },
    /// Opening hours: one of two others.
    Schedule {
        /// Such as `Europe/Bucharest`.
        time_zone: String,
        hours: Vec<Hours>,
        /// `YYYY-MM-DD`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        holidays: Vec<String>,
        /// While it is open: a route or an assistant.
        open: String,
        /// While it is not.
        closed: String,
    },
}

/// When it is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Hours {
    /// `mon`, `tue`, `wed`, `thu`, `fri`, `sat`, `sun`.
    pub days: Vec<String>,
    /// `HH:MM`.
    pub from: String,
    /// `HH:MM`; when it is not later than `from`, of the next day.
    pub to: String,
}

/// A number and who answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Number {
    /// The name of an assistant or of a route.
    pub route: String,
    /// What is tried when that cannot answer, or nobody does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<String>,
    /// Whether calls are answered.
    #[serde(default = "yes")]
    pub active: bool,
}

fn yes() -> bool {
    true
}

/// Providers that the operator has accounts with, as they answer unless an assistant says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Templates {
    /// By provider: `openai`, `elevenlabs`, `openai-live`.
    pub plans: BTreeMap<String, AssistantPlan>,
    /// Who answers, in the order in which they are tried.
    pub providers: Vec<String>,
    pub language: Language,
    pub outbound: OutboundDefaults,
}

impl Templates {
    /// The route of an assistant.
    ///
    /// # Errors
    /// Everything that is wrong with it: a key and what was expected.
    pub fn route(&self, tenant: &str, name: &str, it: &Assistant) -> Result<Route, Vec<String>> {
        let mut problems = Vec::new();
        let language = it.language.as_deref().map_or(Ok(self.language), str::parse::<Language>);
        let language = language.unwrap_or_else(|expected| {
            problems.push(format!("language `{}`: {expected}", it.language.as_deref().unwrap_or_default()));
            self.language
        });
        let providers = if it.providers.is_empty() { &self.providers } else { &it.providers };
        let mut assistants = Vec::new();
        for provider in providers {
            match self.plans.get(provider) {
                Some(plan) => match with(plan, it, language) {
                    Ok(plan) => assistants.push(plan),
                    Err(problem) => problems.push(problem),
                },
                None => {
                    let known: Vec<&str> = self.plans.keys().map(String::as_str).collect();
                    problems
                        .push(format!("provider `{provider}`: expected one that the operator has set up ({})", known.join(", ")));
                }
            }
        }
        if assistants.is_empty() && problems.is_empty() {
            problems.push("no provider is named: expected openai, elevenlabs or openai-live".into());
        }
        let takes_words = |it: &AssistantPlan| !matches!(it, AssistantPlan::ElevenLabs(it) if !it.allow_overrides);
        if (it.instructions.is_some() || it.greeting.is_some() || it.voice.is_some()) && !assistants.iter().any(takes_words) {
            problems.push(
                "instructions, greeting and voice are the ElevenLabs agent's own: change them there, or have its overrides permitted \
                 there and elevenlabs.allow_overrides set by the operator"
                    .into(),
            );
        }
        if problems.is_empty() {
            Ok(Route { tenant: tenant.into(), name: name.into(), assistants, language })
        } else {
            Err(problems)
        }
    }
}

/// A provider's plan with an assistant's own words.
fn with(plan: &AssistantPlan, it: &Assistant, language: Language) -> Result<AssistantPlan, String> {
    let or = |own: &Option<String>, usual: &str| own.clone().unwrap_or_else(|| usual.to_owned());
    Ok(match plan {
        AssistantPlan::OpenAi(plan) => AssistantPlan::OpenAi(Arc::new(bridge::OpenAiPlan {
            instructions: or(&it.instructions, &plan.instructions),
            greeting: or(&it.greeting, &plan.greeting),
            voice: or(&it.voice, &plan.voice),
            language: language.code().into(),
            ..(**plan).clone()
        })),
        AssistantPlan::Live(plan) => AssistantPlan::Live(Arc::new(bridge::LivePlan {
            instructions: or(&it.instructions, &plan.instructions),
            greeting: or(&it.greeting, &plan.greeting),
            voice: or(&it.voice, &plan.voice),
            ..(**plan).clone()
        })),
        AssistantPlan::ElevenLabs(plan) => {
            let agent_id = or(&it.agent_id, &plan.agent_id);
            if agent_id.is_empty() {
                return Err("agent_id is missing: name an ElevenLabs agent here, or for everybody as elevenlabs.agent_id \
                            (ELEVENLABS_AGENT_ID)"
                    .into());
            }
            // Of several providers one has words of its own and the others take these.
            let said = |own: &Option<String>| own.clone().filter(|_| plan.allow_overrides);
            AssistantPlan::ElevenLabs(Arc::new(bridge::ElevenLabsPlan {
                agent_id,
                prompt: said(&it.instructions).or_else(|| plan.prompt.clone()),
                first_message: said(&it.greeting).or_else(|| plan.first_message.clone()),
                voice_id: said(&it.voice).or_else(|| plan.voice_id.clone()),
                language: language.code().into(),
                ..(**plan).clone()
            }))
        }
    })
}

impl Document {
    /// Reads a document as JSON.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(format!("the document has {} bytes: expected at most {DOCUMENT_BYTES_MAX}", text.len()));
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Checks everything in it; returns what is tried for each number, and what may be called.
    ///
    /// # Errors
    /// Everything that is wrong, with its place.
    pub fn compile(&self, tenant: &str, templates: &Templates) -> Result<Published, Vec<String>> {
        let mut compiler = Compiler {
            document: self,
            templates,
            assistants: BTreeMap::new(),
            rungs: BTreeMap::new(),
            under_way: 0,
            problems: Vec::new(),
        };
        for (name, it) in &self.assistants {
            match templates.route(tenant, name, it) {
                Ok(route) => drop(compiler.assistants.insert(name, Some(route))),
                Err(found) => {
                    compiler.assistants.insert(name, None);
                    compiler.problems.extend(found.into_iter().map(|it| format!("assistants.{name}: {it}")));
                }
            }
            if self.routes.contains_key(name) {
                compiler.problems.push(format!("routes.{name}: an assistant has that name: choose another one"));
            }
        }
        for name in self.routes.keys() {
            compiler.rung(&format!("routes.{name}"), name);
        }
        let callers = self.callers.clone().unwrap_or_default();
        compiler.problems.extend(callers.problems());
        let vip_route = self.callers.as_ref().and_then(|it| it.vip_route.as_deref());
        let vip = vip_route.and_then(|name| compiler.rung("callers.vip_route", name));
        let mut numbers = BTreeMap::new();
        for (number, it) in &self.numbers {
            let place = format!("numbers.{number}");
            if !is_e164(number) {
                compiler.problems.push(format!("{place}: expected E.164, + and 4 to 15 digits, such as +40312345678"));
            }
            let first = compiler.rung(&format!("{place}.route"), &it.route);
            let further: Vec<_> = it.fallback.iter().map(|name| compiler.rung(&format!("{place}.fallback"), name)).collect();
            if let (Some(first), Some(further)) = (first, further.into_iter().collect::<Option<Vec<_>>>()) {
                let rungs = || std::iter::once(first.rung.clone()).chain(further.iter().map(|it| it.rung.clone()));
                let vip = vip.as_ref().map(|it| Ladder::new(tenant, it.rung.clone(), rungs()));
                let ladder = Ladder::new(tenant, first.rung.clone(), rungs().skip(1));
                numbers.insert(number.clone(), Answered { ladder, vip, active: it.active });
            }
        }
        let assistants = compiler.assistants.into_values().flatten().map(|it| (it.name.clone(), it));
        let (assistants, mut problems) = (assistants.collect(), compiler.problems);
        if self.calls_max == Some(0) {
            problems.push("calls_max: expected at least 1; to answer nobody, set `active` of the numbers to false".into());
        }
        let own = self.numbers.keys().map(String::as_str);
        let outbound = self.outbound.clone().unwrap_or_default();
        match Policy::new(&outbound, own, &templates.outbound) {
            Ok(mut outbound) if problems.is_empty() => {
                outbound.assistants = assistants;
                Ok(Published { numbers, callers, outbound })
            }
            Ok(_) => Err(problems),
            Err(further) => {
                problems.extend(further);
                Err(problems)
            }
        }
    }
}

/// A tenant's document, ready to be used.
#[derive(Clone, Debug)]
pub struct Published {
    pub numbers: BTreeMap<String, Answered>,
    pub callers: Callers,
    pub outbound: Policy,
}

/// Opening hours within opening hours: holidays within seasons, and no more.
const SCHEDULES_DEEP: usize = 4;
/// Longest sentence of a route.
const MESSAGE_CHARACTERS_MAX: usize = 1000;
/// How long somebody rings unless it is said.
const RING_SECONDS: u32 = 25;

/// Makes rungs of names, each once however often it is named, and collects what is wrong.
struct Compiler<'a> {
    document: &'a Document,
    templates: &'a Templates,
    /// `None`: something is wrong with it, which was told.
    assistants: BTreeMap<&'a str, Option<Route>>,
    rungs: BTreeMap<&'a str, Option<Compiled>>,
    /// Opening hours that are being made of others.
    under_way: usize,
    problems: Vec<String>,
}

#[derive(Clone)]
struct Compiled {
    rung: Rung,
    /// Opening hours in it that lie within each other.
    deep: usize,
}

impl From<Rung> for Compiled {
    fn from(rung: Rung) -> Self {
        Self { rung, deep: 0 }
    }
}

impl<'a> Compiler<'a> {
    fn wrong<T>(&mut self, place: &str, problem: impl std::fmt::Display) -> Option<T> {
        self.problems.push(format!("{place}: {problem}"));
        None
    }

    /// What a name stands for.
    fn rung(&mut self, place: &str, name: &'a str) -> Option<Compiled> {
        if let Some(it) = self.assistants.get(name) {
            return it.clone().map(|it| Rung::Assistant(it).into());
        }
        if let Some(it) = self.rungs.get(name) {
            return it.clone();
        }
        let document = self.document;
        let Some(kind) = document.routes.get(name) else {
            return self.wrong(place, format!("there is no assistant and no route `{name}`"));
        };
        let made = self.make(&format!("routes.{name}"), name, kind);
        self.rungs.insert(name, made.clone());
        made
    }

    fn make(&mut self, own: &str, name: &str, kind: &'a RouteKind) -> Option<Compiled> {
        match kind {
            RouteKind::Dial { number, seconds } => {
                if !is_e164(number) {
                    return self.wrong(own, "number: expected E.164, + and 4 to 15 digits, such as +40312345678");
                }
                if self.document.numbers.contains_key(number) {
                    return self.wrong(own, "number: it is one of the tenant's own, which would ring itself");
                }
                let seconds = seconds.unwrap_or(RING_SECONDS);
                if !(5..=600).contains(&seconds) {
                    return self.wrong(own, "seconds: expected 5 to 600");
                }
                Some(Rung::Dial(Person { name: name.into(), number: number.clone(), seconds }).into())
            }
            RouteKind::Message { text, language } => {
                if text.trim().is_empty() || text.chars().count() > MESSAGE_CHARACTERS_MAX {
                    return self.wrong(own, format!("text: expected 1 to {MESSAGE_CHARACTERS_MAX} characters"));
                }
                let language = match language.as_deref().map_or(Ok(self.templates.language), str::parse) {
                    Ok(language) => language,
                    Err(expected) => return self.wrong(own, format!("language: {expected}")),
                };
                Some(Rung::Message(Sentence { name: name.into(), text: text.clone(), language }).into())
            }
            RouteKind::Schedule { time_zone, hours, holidays, open, closed } => {
                let Ok(zone) = TimeZone::get(time_zone) else {
                    return self.wrong(own, format!("time_zone: `{time_zone}`: expected a name such as Europe/Bucharest"));
                };
                let hours: Option<Vec<_>> = hours.iter().map(|it| self.spans(own, it)).collect();
                let mut days = BTreeSet::new();
                for day in holidays {
                    match day.parse::<Date>() {
                        Ok(day) => drop(days.insert(day)),
                        Err(_) => return self.wrong(own, format!("holidays: `{day}`: expected YYYY-MM-DD")),
                    }
                }
                let too_deep = "it names itself, or too many opening hours lie within each other";
                if self.under_way == SCHEDULES_DEEP {
                    return self.wrong(own, too_deep);
                }
                self.under_way += 1;
                let open = self.rung(&format!("{own}.open"), open);
                let closed = self.rung(&format!("{own}.closed"), closed);
                self.under_way -= 1;
                let (hours, open, closed) = (hours?.concat(), open?, closed?);
                let deep = 1 + open.deep.max(closed.deep);
                if deep > SCHEDULES_DEEP {
                    return self.wrong(own, too_deep);
                }
                let schedule = Schedule { zone, hours, holidays: days, open: open.rung, closed: closed.rung };
                Some(Compiled { rung: Rung::Schedule(Arc::new(schedule)), deep })
            }
        }
    }

    fn spans(&mut self, place: &str, it: &Hours) -> Option<Vec<(Weekday, Time, Time)>> {
        let time = |text: &str| if text.len() == 5 { text.parse::<Time>().ok() } else { None };
        let (Some(from), Some(to)) = (time(&it.from), time(&it.to)) else {
            return self.wrong(place, format!("hours: `{}` to `{}`: expected HH:MM, 00:00 to 23:59", it.from, it.to));
        };
        let mut spans = Vec::new();
        for day in &it.days {
            let day = match day.as_str() {
                "mon" => Weekday::Monday,
                "tue" => Weekday::Tuesday,
                "wed" => Weekday::Wednesday,
                "thu" => Weekday::Thursday,
                "fri" => Weekday::Friday,
                "sat" => Weekday::Saturday,
                "sun" => Weekday::Sunday,
                other => return self.wrong(place, format!("hours: `{other}`: expected mon, tue, wed, thu, fri, sat, sun")),
            };
            spans.push((day, from, to));
        }
        Some(spans)
    }
}

/// What is tried for a number.
#[derive(Clone, Debug)]
pub struct Answered {
    pub ladder: Ladder,
    /// For callers who are answered otherwise.
    pub vip: Option<Ladder>,
    pub active: bool,
}

/// Who answers which number, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    by_number: HashMap<String, Answered>,
    /// For numbers not named.
    fallback: Option<Ladder>,
    calls_max: HashMap<Arc<str>, u32>,
    /// Who may call tenants, where not everybody may.
    callers: HashMap<Arc<str>, Callers>,
    /// Calls that tenants make.
    outbound: HashMap<Arc<str>, Policy>,
}

impl Numbers {
    /// What a tenant has configured about calls that it makes.
    pub(crate) fn outbound(&self, tenant: &str) -> Option<&Policy> {
        self.outbound.get(tenant)
    }

    /// What is tried for a called number and who calls it; `None` when nobody knows it, or its tenant has switched it off.
    pub fn ladder(&self, to: Option<&str>, from: Option<&str>) -> Option<&Ladder> {
        match to.and_then(|it| self.by_number.get(it)) {
            Some(it) => {
                let is_vip = || self.callers.get(&it.ladder.tenant).is_some_and(|it| it.is_vip(from));
                let ladder = it.vip.as_ref().filter(|_| is_vip()).unwrap_or(&it.ladder);
                it.active.then_some(ladder)
            }
            None => self.fallback.as_ref(),
        }
    }

    /// Whether a tenant takes no calls from somebody.
    pub(crate) fn turns_away(&self, tenant: &str, from: Option<&str>) -> bool {
        self.callers.get(tenant).is_some_and(|it| it.turns_away(from))
    }

    /// The assistant that would answer a called number now.
    pub(crate) fn route(&self, to: Option<&str>, from: Option<&str>, now: Timestamp) -> Option<&Route> {
        Some(self.ladder(to, from)?.assistant(now)?.1)
    }

    /// The route that answered a call before: by assistant, should the number have moved or been switched off meanwhile.
    pub(crate) fn route_of(&self, tenant: &str, assistant: &str, to: Option<&str>, now: Timestamp) -> Option<&Route> {
        let own = self.outbound.get(tenant).and_then(|it| it.assistants.get(assistant));
        if own.is_some() {
            return own;
        }
        let all = self.by_number.values().map(|it| &it.ladder).chain(&self.fallback);
        let mut named = all.flat_map(Ladder::assistants).filter(|it| *it.tenant == *tenant && *it.name == *assistant);
        named.next().or_else(|| self.route(to, None, now).filter(|it| *it.tenant == *tenant))
    }

    /// Whether a number is somebody's who has switched it off.
    pub(crate) fn is_off(&self, to: Option<&str>) -> bool {
        to.and_then(|it| self.by_number.get(it)).is_some_and(|it| !it.active)
    }

    /// Calls that a tenant may have at a time.
    pub(crate) fn calls_max(&self, tenant: &str) -> Option<u32> {
        self.calls_max.get(tenant).copied()
    }
}

/// What lies on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Snapshot {
    /// Unix time in milliseconds.
    taken_at_ms: i64,
    configurations: Vec<ConfigurationRow>,
}

/// Who answers which number, kept as it is published.
#[derive(Debug)]
pub struct Configuration {
    /// From the operator's file; these numbers are nobody else's.
    own: HashMap<String, Answered>,
    fallback: Option<Ladder>,
    /// Calls that the operator's own tenants make.
    outbound: HashMap<Arc<str>, Policy>,
    templates: Templates,
    snapshot: PathBuf,
    known: Mutex<Known>,
    now: RwLock<Arc<Numbers>>,
}

#[derive(Debug, Default)]
struct Known {
    /// What was published when it was last looked at: the newest version by tenant.
    versions: BTreeMap<String, u64>,
    /// The newest documents that could be used.
    rows: Vec<ConfigurationRow>,
    /// When what is on disk was written.
    written_at_ms: i64,
}

impl Configuration {
    /// What the operator's file says; what was last known of the rest lies at `snapshot`.
    pub fn new(settings: &Settings, snapshot: PathBuf) -> Self {
        let own = settings
            .routes
            .iter()
            .map(|(number, route)| (number.clone(), Answered { ladder: route.clone().into(), vip: None, active: true }));
        let own: HashMap<_, _> = own.collect();
        let fallback = settings.fallback.clone().map(Ladder::from);
        let outbound = operators_own(settings);
        let numbers = Numbers {
            by_number: own.clone(),
            fallback: fallback.clone(),
            calls_max: HashMap::new(),
            callers: HashMap::new(),
            outbound: outbound.clone(),
        };
        Self {
            own,
            fallback,
            outbound,
            templates: settings.templates.clone(),
            snapshot,
            known: Mutex::default(),
            now: RwLock::new(Arc::new(numbers)),
        }
    }

    /// Looks for everything that is wrong with a tenant's document, before it is published.
    ///
    /// # Errors
    /// Problems with their places.
    pub fn check(&self, tenant: &str, document: &Document) -> Result<(), Vec<String>> {
        document.compile(tenant, &self.templates)?;
        let of_others = |it: &&String| self.own.get(*it).is_some_and(|it| *it.ladder.tenant != *tenant);
        match document.numbers.keys().find(of_others) {
            Some(number) => Err(vec![format!("numbers.{number}: it is the operator's own, under [[numbers]] of the settings")]),
            None => Ok(()),
        }
    }

    /// Who answers which number now.
    pub fn numbers(&self) -> Arc<Numbers> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// At the start: from the database or, while that is away, from disk if that is not older than a day.
    pub async fn load(&self, store: &Store) {
        let problem = match tokio::time::timeout(START_WAIT, self.refresh(store)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", START_WAIT.as_secs()),
        };
        match read(&self.snapshot, Timestamp::now().as_millisecond()) {
            Ok(Some(it)) => {
                let taken = Timestamp::from_millisecond(it.taken_at_ms).unwrap_or_default();
                tracing::warn!(problem, "the database does not say who answers which number: taken as it was at {taken}");
                self.known().written_at_ms = it.taken_at_ms;
                self.take(it.configurations);
            }
            Ok(None) => tracing::warn!(problem, "the database does not say who answers which number, nor does the disk"),
            Err(error) => {
                tracing::error!(problem, error, "the database does not say who answers which number, nor does the disk");
            }
        }
    }

    /// Takes what is published now, if that is anything new.
    pub async fn refresh(&self, store: &Store) -> Result<(), StoreError> {
        let newest = store.configuration_versions().await?;
        let now = Timestamp::now().as_millisecond();
        let (new, stale) = {
            let known = self.known();
            (known.versions != newest, now - known.written_at_ms >= SNAPSHOT_AGE_MS)
        };
        if new {
            self.take(store.configurations().await?);
            self.known().versions = newest;
        }
        if new || stale {
            let configurations = self.known().rows.clone();
            let (path, snapshot) = (self.snapshot.clone(), Snapshot { taken_at_ms: now, configurations });
            let written = tokio::task::spawn_blocking(move || write(&path, &snapshot)).await;
            match written.map_err(io::Error::other).and_then(|it| it) {
                Ok(()) => self.known().written_at_ms = now,
                Err(error) => tracing::error!(%error, "who answers which number cannot be written to disk"),
            }
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses documents; one that cannot be used leaves its tenant with the one before.
    fn take(&self, rows: Vec<ConfigurationRow>) {
        let mut known = self.known();
        let (mut usable, mut numbers, mut calls_max) = (Vec::new(), HashMap::new(), HashMap::new());
        let (mut callers, mut outbound) = (HashMap::new(), self.outbound.clone());
        for row in rows {
            let (row, (document, published)) = match self.usable(&row) {
                Ok(it) => (row, it),
                Err(problems) => {
                    let (tenant, version) = (&row.tenant, row.version);
                    tracing::error!(tenant, version, problems, "a published configuration cannot be used: the one before stays");
                    let before = known.rows.iter().find(|it| it.tenant == row.tenant).cloned();
                    match before.and_then(|it| self.usable(&it).ok().map(|made| (it, made))) {
                        Some(it) => it,
                        None => continue,
                    }
                }
            };
            if let Some(most) = document.calls_max {
                calls_max.insert(Arc::from(row.tenant.as_str()), most);
            }
            let tenant: Arc<str> = row.tenant.as_str().into();
            numbers.extend(published.numbers);
            callers.insert(tenant.clone(), published.callers);
            outbound.insert(tenant, published.outbound);
            usable.push(row);
        }
        for (number, it) in &self.own {
            if let Some(other) =
                numbers.insert(number.clone(), it.clone()).filter(|other| other.ladder.tenant != it.ladder.tenant)
            {
                tracing::error!(tenant = &*other.ladder.tenant, "a published number is the operator's own: theirs stays");
            }
        }
        known.rows = usable;
        let numbers = Numbers { by_number: numbers, fallback: self.fallback.clone(), calls_max, callers, outbound };
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(numbers);
    }

    fn usable(&self, row: &ConfigurationRow) -> Result<(Document, Published), String> {
        let document = Document::read(&row.body)?;
        let published = document.compile(&row.tenant, &self.templates).map_err(|it| it.join("; "))?;
        Ok((document, published))
    }
}

/// What the operator's own tenants may do without having published anything: call from the operator's number with the
/// assistants of the operator's file.
fn operators_own(settings: &Settings) -> HashMap<Arc<str>, Policy> {
    let mut found: HashMap<Arc<str>, Policy> = HashMap::new();
    let defaults = &settings.templates.outbound;
    for (number, route) in
        settings.routes.iter().map(|it| (Some(it.0), it.1)).chain(settings.fallback.iter().map(|it| (None, it)))
    {
        let from = defaults.phone_number.as_ref().or(number);
        let policy = || Policy::new(&Outbound::default(), from.map(String::as_str).into_iter(), defaults);
        let Ok(mut policy) = found.get(&route.tenant).cloned().map_or_else(policy, Ok) else { continue };
        policy.assistants.entry(route.name.clone()).or_insert_with(|| route.clone());
        found.insert(route.tenant.clone(), policy);
    }
    found
}

/// What is on disk, unless it is too old or was never written.
fn read(path: &Path, now_ms: i64) -> Result<Option<Snapshot>, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let it: Snapshot = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let age = now_ms.saturating_sub(it.taken_at_ms);
    if age > SNAPSHOT_LIFE_MS {
        return Err(format!("what was last known is {} hours old", age / 3_600_000));
    }
    Ok(Some(it))
}

/// Written beside, then put in place: whoever reads finds one or the other.
fn write(path: &Path, it: &Snapshot) -> io::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, serde_json::to_vec(it)?)?;
    std::fs::File::open(&beside)?.sync_all()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PublicUrl;
    use store::NewConfiguration;
    use url::Url;

    fn templates() -> Templates {
        let url = Url::parse("wss://api.openai.com/v1/realtime").unwrap();
        let openai = bridge::OpenAiPlan::new(url, String::from("key").into(), "gpt-realtime-2.1");
        Templates {
            plans: [("openai".to_owned(), AssistantPlan::OpenAi(Arc::new(openai)))].into(),
            providers: vec!["openai".into()],
            language: Language::English,
            outbound: OutboundDefaults::default(),
        }
    }

    fn settings() -> Settings {
        let public_url = PublicUrl::parse("https://phone.example.com").unwrap();
        let own = templates().route("operator", "front-desk", &Assistant::default()).unwrap();
        Settings {
            node_url: public_url.clone(),
            public_url,
            node: "n".into(),
            routes: [("+15550100001".to_owned(), own)].into(),
            fallback: None,
            templates: templates(),
            conversation: call::CallConfig::new(Vec::new()),
            back_channel: Vec::new(),
            prepare: false,
            destinations: BTreeMap::new(),
            last_resort: None,
            sound: bridge::SoundPlan::default(),
            recordings: None,
            recording_format: "wav".into(),
            time_zone: jiff::tz::TimeZone::UTC,
        }
    }

    fn document(number: &str, language: &str) -> String {
        format!(
            r#"{{"calls_max": 2, "assistants": {{"desk": {{"language": "{language}", "instructions": "Be kind."}}}},
                "numbers": {{"{number}": {{"route": "desk"}}, "+15550100009": {{"route": "desk", "active": false}}}}}}"#
        )
    }

    async fn publish(store: &Store, tenant: &str, body: &str, numbers: &[(&str, bool)]) {
        let new = NewConfiguration { author: "a", body, numbers, calls_max: None, follows: None };
        store.tenant(tenant).publish(&new).await.unwrap();
    }

    fn tenant_of(configuration: &Configuration, number: &str) -> Option<String> {
        configuration.numbers().route(Some(number), None, Timestamp::now()).map(|it| it.tenant.to_string())
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_place() {
        let text = r#"{"calls_max": 0, "assistants": {"a": {"language": "xx", "providers": ["acme"]}, "b": {}},
            "routes": {
                "b": {"kind": "message", "text": "x"},
                "who": {"kind": "dial", "number": "0712"},
                "self": {"kind": "dial", "number": "+15550100002"},
                "long": {"kind": "dial", "number": "+15550100007", "seconds": 700},
                "mute": {"kind": "message", "text": " "},
                "loop": {"kind": "schedule", "time_zone": "UTC", "hours": [], "open": "loop", "closed": "b"},
                "zone": {"kind": "schedule", "time_zone": "Mars", "hours": [], "open": "b", "closed": "b"},
                "late": {"kind": "schedule", "time_zone": "UTC", "hours": [{"days": ["mon"], "from": "9", "to": "18:00"}], "open": "b", "closed": "b"},
                "days": {"kind": "schedule", "time_zone": "UTC", "hours": [{"days": ["monday"], "from": "09:00", "to": "18:00"}], "open": "b", "closed": "b"},
                "feast": {"kind": "schedule", "time_zone": "UTC", "hours": [], "holidays": ["25.12."], "open": "b", "closed": "gone"}
            },
            "numbers": {"0712": {"route": "b"}, "+15550100002": {"route": "c", "fallback": ["d"]}}}"#;
        let problems = Document::read(text).unwrap().compile("t", &templates()).unwrap_err().join("\n");
        for expected in [
            "assistants.a: language `xx`: expected en or ro",
            "assistants.a: provider `acme`: expected one that the operator has set up (openai)",
            "routes.b: an assistant has that name",
            "routes.who: number: expected E.164",
            "routes.self: number: it is one of the tenant's own",
            "routes.long: seconds: expected 5 to 600",
            "routes.mute: text: expected 1 to 1000 characters",
            "routes.loop: it names itself",
            "routes.zone: time_zone: `Mars`",
            "routes.late: hours: `9` to `18:00`: expected HH:MM",
            "routes.days: hours: `monday`: expected mon,",
            "routes.feast: holidays: `25.12.`",
            "numbers.0712: expected E.164",
            "numbers.+15550100002.route: there is no assistant and no route `c`",
            "numbers.+15550100002.fallback: there is no assistant and no route `d`",
            "calls_max: expected at least 1",
        ] {
            assert!(problems.contains(expected), "{expected} is not in\n{problems}");
        }
        let error = Document::read(r#"{"numbers": {"+15550100002": {"rout": "b"}}}"#).unwrap_err();
        assert!(error.contains("unknown field `rout`") && error.contains("line 1"), "{error}");
        assert!(Document::read(&" ".repeat(DOCUMENT_BYTES_MAX + 1)).is_err());
    }

    #[tokio::test]
    async fn what_is_published_is_answered_and_what_cannot_be_used_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite:{}", folder.path().join("o.db").display())).await.unwrap();
        let configuration = Configuration::new(&settings(), folder.path().join("configuration.json"));
        assert_eq!(tenant_of(&configuration, "+15550100001").as_deref(), Some("operator"));
        publish(&store, "dental", &document("+15550100002", "ro"), &[]).await;
        configuration.refresh(&store).await.unwrap();
        let numbers = configuration.numbers();
        let route = numbers.route(Some("+15550100002"), None, Timestamp::now()).unwrap();
        assert_eq!((&*route.tenant, &*route.name, route.language), ("dental", "desk", Language::Romanian));
        let AssistantPlan::OpenAi(plan) = &route.assistants[0] else { panic!() };
        assert_eq!((plan.instructions.as_str(), plan.language.as_str()), ("Be kind.", "ro"));
        assert_eq!((numbers.calls_max("dental"), numbers.calls_max("operator")), (Some(2), None));
        assert!(numbers.ladder(Some("+15550100009"), None).is_none() && numbers.is_off(Some("+15550100009")));
        assert!(numbers.route_of("dental", "desk", Some("+15550100009"), Timestamp::now()).is_some(), "a call under way goes on");
        // A document of a newer version, or one that was written by hand.
        publish(&store, "dental", r#"{"colour": "red"}"#, &[]).await;
        publish(&store, "garage", r#"{"numbers": {"+15550100003": {"route": "none"}}}"#, &[]).await;
        // The operator's own number is nobody else's.
        publish(&store, "thief", &document("+15550100001", "en"), &[]).await;
        configuration.refresh(&store).await.unwrap();
        let of = |number| tenant_of(&configuration, number);
        assert_eq!((of("+15550100002").as_deref(), of("+15550100003")), (Some("dental"), None));
        assert_eq!(of("+15550100001").as_deref(), Some("operator"));
        publish(&store, "dental", &document("+15550100004", "en"), &[]).await;
        configuration.refresh(&store).await.unwrap();
        assert_eq!((of("+15550100002"), of("+15550100004").as_deref()), (None, Some("dental")));
    }

    #[tokio::test]
    async fn what_was_last_known_answers_for_a_day_while_the_database_is_away() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = folder.path().join("configuration.json");
        let store = Store::open(&format!("sqlite:{}", folder.path().join("o.db").display())).await.unwrap();
        publish(&store, "dental", &document("+15550100002", "en"), &[]).await;
        Configuration::new(&settings(), snapshot.clone()).load(&store).await;
        // A server of nobody's: nobody listens there.
        let away = Store::open("postgres://u@127.0.0.1:9/none").await.unwrap();
        let configuration = Configuration::new(&settings(), snapshot.clone());
        configuration.load(&away).await;
        assert_eq!(tenant_of(&configuration, "+15550100002").as_deref(), Some("dental"));
        let day = |it: i64| Timestamp::now().as_millisecond() + it * SNAPSHOT_LIFE_MS;
        assert!(read(&snapshot, day(1) - 60_000).unwrap().is_some());
        assert!(read(&snapshot, day(1) + 60_000).unwrap_err().contains("24 hours old"));
        assert!(read(&folder.path().join("none"), day(0)).unwrap().is_none());
        std::fs::write(&snapshot, "{").unwrap();
        assert!(read(&snapshot, day(0)).is_err());
        // What is broken on disk keeps nobody from starting.
        let configuration = Configuration::new(&settings(), snapshot);
        configuration.load(&away).await;
        assert_eq!(tenant_of(&configuration, "+15550100002"), None);
        configuration.refresh(&store).await.unwrap();
        assert_eq!(tenant_of(&configuration, "+15550100002").as_deref(), Some("dental"));
    }
}
