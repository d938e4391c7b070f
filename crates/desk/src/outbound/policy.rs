//! Who may be called, by whom, when: what a tenant configures about calls of its own, and the decision about one call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use rlibphonenumber::{PHONE_NUMBER_UTIL, PhoneNumberFormat, PhoneNumberType, Region};
use serde::{Deserialize, Serialize};
use twilio::is_e164;
use utoipa::ToSchema;

use crate::routes::Route;

/// Nobody is called between these hours unless a tenant says otherwise.
const QUIET: [&str; 2] = ["21:00", "08:00"];
/// Longest sentence for a machine: what most of them record without cutting off.
const MESSAGE_CHARACTERS_MAX: usize = 500;
/// Ringing, unless it is said.
const RING_SECONDS: u32 = 30;
/// Longest text that may be a number.
const NUMBER_CHARACTERS_MAX: usize = 40;

/// What a tenant configures about calls that it makes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Outbound {
    /// Shown to whoever is called: one of the tenant's numbers, in E.164. Without it the only one that there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Countries that may be called, ISO 3166 such as `RO`; without them the country of `from`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub countries: Vec<String>,
    /// Nobody is called from then to then, `["HH:MM", "HH:MM"]`; default 21:00 to 08:00, the same twice: never quiet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_hours: Option<[String; 2]>,
    /// By whose clock, such as `Europe/Bucharest`; default: the operator's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Nobody is called who has not agreed: each order must say so.
    #[serde(skip_serializing_if = "is_false")]
    pub require_consent: bool,
    /// Calls that are made, at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_max: Option<u32>,
    /// Calls begun within 24 hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_a_day_max: Option<u32>,
    /// What calls begun within 24 hours may cost at most, in whole units of the currency of the operator's prices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spend_a_day_max: Option<u32>,
    /// Longest ringing in seconds, 5 to 600; default 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_seconds: Option<u32>,
    /// When a machine answers: `ignore` (default; it is not asked who answers), `hang_up`, `message`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machines: Option<String>,
    /// What is left on a machine, after its beep; 1 to 500 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `stream` (default): an assistant speaks; `dial`: the call is connected with the provider's own number, which the operator
    /// has set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

fn is_false(it: &bool) -> bool {
    !it
}

/// What the operator has set for calls that anybody makes.
#[derive(Clone, Debug)]
pub struct OutboundDefaults {
    /// `TWILIO_PHONE_NUMBER`: shown by the operator's own calls.
    pub phone_number: Option<String>,
    /// `ELEVENLABS_PHONE_NUMBER`: with whom calls are connected in mode `dial`.
    pub provider_number: Option<String>,
    pub time_zone: TimeZone,
}

impl Default for OutboundDefaults {
    fn default() -> Self {
        Self { phone_number: None, provider_number: None, time_zone: TimeZone::UTC }
    }
}

/// What is done when a machine answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Machines {
    /// It is not asked who answers.
    Ignore,
    HangUp,
    /// Something is said after the beep.
    Message(String),
}

/// Why somebody is not called. The texts are for whoever ordered the call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCalled {
    #[error("`{agent_type}` is no assistant of yours: expected one of {known}")]
    UnknownAssistant { agent_type: String, known: String },
    #[error("the number cannot be called: {reason}")]
    Number { reason: &'static str },
    #[error("calls to {country} are not allowed: add it to outbound.countries")]
    Country { country: String },
    #[error("it is a number that costs more than others ({kind}): such numbers are never called")]
    Premium { kind: &'static str },
    #[error("nobody is called between {from} and {to} ({zone}): try again at {to}, or change outbound.quiet_hours")]
    QuietHours { from: Time, to: Time, zone: String },
    #[error("whoever is called has to have agreed: send `consent: true` when they have")]
    NoConsent,
    #[error("the number is on the list of numbers that are not to be called")]
    DoNotCall,
    #[error("there is no number to call from: set outbound.from to one of your numbers")]
    NoNumber,
    #[error("as many calls as may be are being made: outbound.calls_max")]
    Full,
    #[error("as many calls as may be were made within 24 hours: outbound.calls_a_day_max")]
    DayFull,
    #[error("what may be spent within 24 hours is spent: outbound.spend_a_day_max")]
    Spent,
    #[error(
        "outbound.spend_a_day_max is set, and the operator has set no price for a minute ({0}): what a call costs is not known"
    )]
    NoPrice(&'static str),
}

impl NotCalled {
    /// For programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownAssistant { .. } => "unknown_assistant",
            Self::Number { .. } => "invalid_number",
            Self::Country { .. } => "country_not_allowed",
            Self::Premium { .. } => "premium_number",
            Self::QuietHours { .. } => "quiet_hours",
            Self::NoConsent => "no_consent",
            Self::DoNotCall => "do_not_call",
            Self::NoNumber => "no_number",
            Self::Full => "calls_max",
            Self::DayFull => "calls_a_day_max",
            Self::Spent => "spend_a_day_max",
            Self::NoPrice(_) => "no_price",
        }
    }

    /// Whether the same order may be carried out later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::QuietHours { .. } | Self::Full | Self::DayFull | Self::Spent)
    }
}

/// What a tenant has configured, checked.
#[derive(Clone, Debug)]
pub struct Policy {
    /// E.164.
    pub from: Option<String>,
    countries: BTreeSet<String>,
    quiet: Option<(Time, Time)>,
    zone: TimeZone,
    require_consent: bool,
    pub calls_max: Option<u32>,
    pub calls_a_day_max: Option<u32>,
    pub spend_a_day_max: Option<u32>,
    pub ring: Duration,
    pub machines: Machines,
    /// The provider's number, in mode `dial`.
    pub dial: Option<String>,
    /// Who may speak, by name.
    pub assistants: BTreeMap<Arc<str>, Route>,
}

impl Policy {
    /// Checks what a tenant has configured; `own` are its numbers.
    ///
    /// # Errors
    /// Everything that is wrong: a key and what was expected.
    pub fn new<'a>(it: &Outbound, own: impl Iterator<Item = &'a str>, defaults: &OutboundDefaults) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut wrong = |key: &str, expected: &str| problems.push(format!("outbound.{key}: {expected}"));
        let own: BTreeSet<&str> = own.collect();
        if let Some(from) = &it.from
            && !own.contains(from.as_str())
        {
            wrong("from", "expected one of the tenant's own numbers");
        }
        let from = it.from.clone().or_else(|| own.first().filter(|_| own.len() == 1).map(|it| (*it).to_owned()));
        let mut countries = BTreeSet::new();
        for country in &it.countries {
            match Region::from_code(country) {
                Ok(region) => drop(countries.insert(region.to_string())),
                Err(_) => wrong("countries", "expected ISO 3166, two letters such as RO"),
            }
        }
        if it.countries.is_empty() {
            countries.extend(from.as_deref().and_then(country_of));
        }
        let zone = match it.time_zone.as_deref().map(TimeZone::get) {
            Some(Ok(zone)) => zone,
            Some(Err(_)) => {
                wrong("time_zone", "expected a name such as Europe/Bucharest");
                TimeZone::UTC
            }
            None => defaults.time_zone.clone(),
        };
        let quiet = it.quiet_hours.clone().unwrap_or(QUIET.map(str::to_owned));
        let quiet = match quiet.each_ref().map(|it| Time::strptime("%H:%M", it)) {
            [Ok(from), Ok(to)] => (from != to).then_some((from, to)),
            _ => {
                wrong("quiet_hours", "expected [\"HH:MM\", \"HH:MM\"]");
                None
            }
        };
        for (key, most) in
            [("calls_max", it.calls_max), ("calls_a_day_max", it.calls_a_day_max), ("spend_a_day_max", it.spend_a_day_max)]
        {
            if most == Some(0) {
                wrong(key, "expected at least 1");
            }
        }
        let ring = it.ring_seconds.unwrap_or(RING_SECONDS);
        if !(5..=600).contains(&ring) {
            wrong("ring_seconds", "expected 5 to 600");
        }
        let text = it.message.as_deref().unwrap_or_default();
        let machines = match it.machines.as_deref() {
            None | Some("ignore") => Machines::Ignore,
            Some("hang_up") => Machines::HangUp,
            Some("message") => {
                if text.trim().is_empty() || text.chars().count() > MESSAGE_CHARACTERS_MAX {
                    wrong("message", "expected 1 to 500 characters, which are said after the beep");
                }
                Machines::Message(text.to_owned())
            }
            Some(_) => {
                wrong("machines", "expected ignore, hang_up or message");
                Machines::Ignore
            }
        };
        let dial = match it.mode.as_deref() {
            None | Some("stream") => None,
            Some("dial") => {
                if defaults.provider_number.is_none() {
                    wrong("mode", "`dial` needs the provider's number, which the operator has not set (ELEVENLABS_PHONE_NUMBER)");
                }
                defaults.provider_number.clone()
            }
            Some(_) => {
                wrong("mode", "expected stream or dial");
                None
            }
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            from,
            countries,
            quiet,
            zone,
            require_consent: it.require_consent,
            calls_max: it.calls_max,
            calls_a_day_max: it.calls_a_day_max,
            spend_a_day_max: it.spend_a_day_max,
            ring: Duration::from_secs(ring.into()),
            machines,
            dial,
            assistants: BTreeMap::new(),
        })
    }

    /// Who speaks.
    ///
    /// # Errors
    /// [`NotCalled::UnknownAssistant`]
    pub fn assistant(&self, agent_type: &str) -> Result<&Route, NotCalled> {
        self.assistants.get(agent_type).ok_or_else(|| {
            let known: Vec<&str> = self.assistants.keys().map(|it| &**it).collect();
            NotCalled::UnknownAssistant { agent_type: agent_type.chars().take(64).collect(), known: known.join(", ") }
        })
    }

    /// The number in E.164, if it may be called now. Numbers without country are of the country that is called from.
    ///
    /// # Errors
    /// [`NotCalled`]
    pub fn check(&self, phone: &str, consent: bool, now: Timestamp) -> Result<String, NotCalled> {
        let from = self.from.as_deref().ok_or(NotCalled::NoNumber)?;
        let home = country_of(from).and_then(|it| Region::from_code(&it).ok());
        let wrong = |reason| NotCalled::Number { reason };
        if phone.chars().count() > NUMBER_CHARACTERS_MAX {
            return Err(wrong("it is too long"));
        }
        let number = PHONE_NUMBER_UTIL
            .parse(phone, home)
            .map_err(|_| wrong("expected a telephone number, best in E.164 such as +40312345678"))?;
        let e164 = PHONE_NUMBER_UTIL.format(&number, PhoneNumberFormat::E164).into_owned();
        if number.extension.is_some() {
            return Err(wrong("it has an extension, which cannot be dialled"));
        }
        if !PHONE_NUMBER_UTIL.is_valid_number(&number) || !is_e164(&e164) {
            return Err(wrong("no such number can exist in that country: look at its length and area code"));
        }
        if e164 == from {
            return Err(wrong("it is the number that is called from"));
        }
        match number.get_type() {
            PhoneNumberType::PremiumRate => return Err(NotCalled::Premium { kind: "premium rate" }),
            PhoneNumberType::SharedCost => return Err(NotCalled::Premium { kind: "shared cost" }),
            PhoneNumberType::UAN => return Err(NotCalled::Premium { kind: "universal access" }),
            PhoneNumberType::Pager => return Err(wrong("it is a pager")),
            _ => (),
        }
        let country = number.get_region_code().map(|it| it.to_string()).unwrap_or_default();
        if !self.countries.contains(&country) {
            return Err(NotCalled::Country { country });
        }
        if self.require_consent && !consent {
            return Err(NotCalled::NoConsent);
        }
        if let Some((from, to)) = self.quiet {
            let time = now.to_zoned(self.zone.clone()).time();
            let quiet = if from < to { from <= time && time < to } else { from <= time || time < to };
            if quiet {
                let zone = self.zone.iana_name().unwrap_or("UTC").to_owned();
                return Err(NotCalled::QuietHours { from, to, zone });
            }
        }
        Ok(e164)
    }
}

/// ISO 3166, of a number in E.164.
fn country_of(number: &str) -> Option<String> {
    let number = PHONE_NUMBER_UTIL.parse(number, None).ok()?;
    Some(number.get_region_code()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(it: &Outbound) -> Policy {
        Policy::new(it, ["+40312345678"].into_iter(), &OutboundDefaults::default()).unwrap()
    }

    fn at(time: &str) -> Timestamp {
        format!("2026-11-23T{time}:00Z").parse().unwrap()
    }

    #[test]
    fn numbers_are_understood_as_people_write_them() {
        // S1-10.
        let it = policy(&Outbound { countries: vec!["RO".into(), "US".into(), "GB".into(), "NG".into()], ..Outbound::default() });
        for (written, e164) in [
            ("+40712345678", "+40712345678"),
            ("0712 345 678", "+40712345678"),
            ("0712-345-678", "+40712345678"),
            ("(0712) 345.678", "+40712345678"),
            ("0040 712 345 678", "+40712345678"),
            ("tel:+40-712-345-678", "+40712345678"),
            ("+1 (202) 555-0143", "+12025550143"),
            ("+44 (0)20 7946 0958", "+442079460958"),
            ("+2348012345678", "+2348012345678"),
            ("021 310 1234", "+40213101234"),
        ] {
            assert_eq!(it.check(written, false, at("12:00")), Ok(e164.to_owned()), "{written}");
        }
        for wrong in [
            "",
            "ana",
            "112",
            "911",
            "+40",
            "+40 712",
            "+4071234567890123",
            "+999123456789",
            "0712 345 678 ext. 5",
            "anonymous",
            "sip:ana@example.com",
            "+40312345678",
            "1555",
            &"1".repeat(5000),
            "+٤٠٧١٢",
        ] {
            let refused = it.check(wrong, false, at("12:00")).unwrap_err();
            assert_eq!(refused.code(), "invalid_number", "{wrong}: {refused}");
        }
    }

    #[test]
    fn nobody_is_called_where_when_and_how_they_must_not_be() {
        let it = policy(&Outbound::default());
        let refused = |it: &Policy, number: &str, time: &str| it.check(number, false, at(time)).map_err(|it| it.code());
        assert_eq!(refused(&it, "+12025550143", "12:00"), Err("country_not_allowed"), "the tenant's own country by default");
        // The United States and Canada have one country code and are two countries.
        let american = policy(&Outbound { countries: vec!["US".into()], ..Outbound::default() });
        assert!(refused(&american, "+12025550143", "12:00").is_ok());
        assert_eq!(refused(&american, "+16135550143", "12:00"), Err("country_not_allowed"));
        // What drains accounts: premium numbers, and countries with one code that cost a hundred times as much.
        assert_eq!(refused(&american, "+18765550143", "12:00"), Err("country_not_allowed"));
        assert_eq!(refused(&american, "+19002345678", "12:00"), Err("premium_number"));
        assert_eq!(refused(&it, "0900 123 456", "12:00"), Err("premium_number"));
        // 21:00 to 08:00 unless something else is said.
        for (time, quiet) in [("07:59", true), ("08:00", false), ("20:59", false), ("21:00", true), ("00:00", true)] {
            assert_eq!(refused(&it, "0712345678", time).is_err(), quiet, "{time}");
        }
        let hours = |from: &str, to: &str| Outbound {
            quiet_hours: Some([from.into(), to.into()]),
            time_zone: Some("Europe/Bucharest".into()),
            ..Outbound::default()
        };
        let lunch = policy(&hours("12:00", "14:00"));
        assert!(refused(&lunch, "0712345678", "09:59").is_ok() && refused(&lunch, "0712345678", "10:00").is_err());
        assert!(refused(&policy(&hours("00:00", "00:00")), "0712345678", "01:00").is_ok());
        let said = lunch.check("0712345678", false, at("10:30")).unwrap_err();
        assert!(said.to_string().contains("12:00:00 and 14:00:00 (Europe/Bucharest)") && said.is_passing(), "{said}");
        let asked = policy(&Outbound { require_consent: true, ..Outbound::default() });
        assert_eq!(asked.check("0712345678", false, at("12:00")), Err(NotCalled::NoConsent));
        assert!(asked.check("0712345678", true, at("12:00")).is_ok());
        let none = Policy::new(&Outbound::default(), ["+40312345678", "+40312345679"].into_iter(), &OutboundDefaults::default());
        assert_eq!(none.unwrap().check("0712345678", true, at("12:00")), Err(NotCalled::NoNumber), "two: which one?");
    }

    #[test]
    fn everything_that_is_wrong_is_told() {
        let it = Outbound {
            from: Some("+15550100001".into()),
            countries: vec!["Romania".into()],
            quiet_hours: Some(["9".into(), "18:00".into()]),
            time_zone: Some("Mars".into()),
            calls_max: Some(0),
            ring_seconds: Some(1),
            machines: Some("message".into()),
            mode: Some("dial".into()),
            ..Outbound::default()
        };
        let problems = Policy::new(&it, ["+40312345678"].into_iter(), &OutboundDefaults::default()).unwrap_err();
        let keys: Vec<&str> = problems.iter().filter_map(|it| it.split(':').next()).collect();
        let expected = ["from", "countries", "time_zone", "quiet_hours", "calls_max", "ring_seconds", "message", "mode"];
        assert_eq!(keys, expected.map(|it| format!("outbound.{it}")));
        let it = Outbound { machines: Some("shout".into()), mode: Some("fax".into()), ..Outbound::default() };
        assert_eq!(Policy::new(&it, ["+40312345678"].into_iter(), &OutboundDefaults::default()).unwrap_err().len(), 2);
    }
}
