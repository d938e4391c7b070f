//! What is tried for a call to a number, one after the other: an assistant, a person, a sentence; by opening hours.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use crate::phrases::Language;
use crate::routes::Route;

/// What is tried, in order.
#[derive(Clone, Debug)]
pub struct Ladder {
    pub tenant: Arc<str>,
    rungs: Vec<Rung>,
}

/// One thing that is tried.
#[derive(Clone, Debug)]
pub enum Rung {
    Assistant(Route),
    Dial(Person),
    Message(Sentence),
    /// One of two, by the time.
    Schedule(Arc<Schedule>),
}

/// Somebody who is rung.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Of the route, for the record.
    pub name: Arc<str>,
    /// E.164.
    pub number: String,
    /// Longest ringing.
    pub seconds: u32,
}

/// Something that is said before the call ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// Of the route, for the record.
    pub name: Arc<str>,
    pub text: String,
    pub language: Language,
}

/// Opening hours.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub zone: TimeZone,
    /// Spans of a day; one that ends before it begins ends on the next day.
    pub hours: Vec<(Weekday, Time, Time)>,
    /// Days on which nothing opens.
    pub holidays: BTreeSet<Date>,
    pub open: Rung,
    pub closed: Rung,
}

/// Who of a ladder may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Everybody,
    /// No assistants: one has given up already.
    People,
}

/// A rung at a moment.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    Assistant(&'a Route),
    Dial(&'a Person),
    Message(&'a Sentence),
}

impl Schedule {
    /// Whether it is open at a moment. Spans go by the clock on the wall: an hour that is left out when clocks change is no
    /// time, one that comes twice counts twice.
    pub fn is_open(&self, now: Timestamp) -> bool {
        let here = now.to_zoned(self.zone.clone());
        let (today, time) = (here.date(), here.time());
        let begins_on = |date: Date| {
            let spans = self.hours.iter().filter(move |it| it.0 == date.weekday());
            spans.filter(move |_| !self.holidays.contains(&date)).map(|it| (it.1, it.2))
        };
        let today_open = begins_on(today).any(|(from, to)| from <= time && (time < to || to <= from));
        // What began yesterday may last until this morning.
        let yesterday = today.checked_sub(1.day()).ok();
        today_open || yesterday.is_some_and(|it| begins_on(it).any(|(from, to)| to <= from && time < to))
    }
}

impl Rung {
    fn at(&self, now: Timestamp) -> Step<'_> {
        match self {
            Self::Assistant(it) => Step::Assistant(it),
            Self::Dial(it) => Step::Dial(it),
            Self::Message(it) => Step::Message(it),
            Self::Schedule(it) if it.is_open(now) => it.open.at(now),
            Self::Schedule(it) => it.closed.at(now),
        }
    }

    fn assistants<'a>(&'a self, found: &mut Vec<&'a Route>) {
        match self {
            Self::Assistant(it) => found.push(it),
            Self::Schedule(it) => {
                it.open.assistants(found);
                it.closed.assistants(found);
            }
            Self::Dial(_) | Self::Message(_) => (),
        }
    }
}

impl Ladder {
    /// At least one rung.
    pub fn new(tenant: impl Into<Arc<str>>, first: Rung, further: impl IntoIterator<Item = Rung>) -> Self {
        Self { tenant: tenant.into(), rungs: std::iter::once(first).chain(further).collect() }
    }

    /// The rung at a place, as it is at a moment; `None` behind the last one.
    pub fn step(&self, place: usize, now: Timestamp) -> Option<Step<'_>> {
        self.rungs.get(place).map(|it| it.at(now))
    }

    /// The first assistant at a moment, with its place.
    pub fn assistant(&self, now: Timestamp) -> Option<(usize, &Route)> {
        self.rungs.iter().enumerate().find_map(|(place, it)| match it.at(now) {
            Step::Assistant(route) => Some((place, route)),
            Step::Dial(_) | Step::Message(_) => None,
        })
    }

    /// What we say ourselves is said in the language of who would answer.
    pub fn language(&self, now: Timestamp) -> Language {
        self.assistant(now)
            .map(|it| it.1)
            .or_else(|| self.assistants().first().copied())
            .map_or(Language::default(), |it| it.language)
    }

    /// Every assistant that may answer at some time.
    pub fn assistants(&self) -> Vec<&Route> {
        let mut found = Vec::new();
        self.rungs.iter().for_each(|it| it.assistants(&mut found));
        found
    }
}

impl From<Route> for Ladder {
    fn from(it: Route) -> Self {
        Self::new(it.tenant.clone(), Rung::Assistant(it), [])
    }
}

impl Step<'_> {
    /// Name of the assistant or route, for the record.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Assistant(it) => &it.name,
            Self::Dial(it) => &it.name,
            Self::Message(it) => &it.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Rung {
        Rung::Message(Sentence { name: text.into(), text: text.into(), language: Language::English })
    }

    fn time(text: &str) -> Time {
        text.parse().unwrap()
    }

    #[test]
    fn opening_hours_go_by_the_clock_on_the_wall() {
        let bar = Schedule {
            zone: TimeZone::get("Europe/Bucharest").unwrap(),
            hours: vec![
                (Weekday::Monday, time("09:00"), time("18:00")),
                (Weekday::Saturday, time("22:00"), time("02:00")),
                (Weekday::Sunday, time("00:00"), time("00:00")),
            ],
            holidays: ["2026-11-30".parse().unwrap()].into(),
            open: message("open"),
            closed: message("closed"),
        };
        for (moment, open) in [
            // A Monday in winter: UTC+2.
            ("2026-11-23T06:59:59Z", false),
            ("2026-11-23T07:00:00Z", true),
            ("2026-11-23T15:59:59Z", true),
            ("2026-11-23T16:00:00Z", false),
            // A Monday in summer: UTC+3.
            ("2026-07-06T06:00:00Z", true),
            ("2026-07-06T15:00:00Z", false),
            // A holiday that is a Monday.
            ("2026-11-30T10:00:00Z", false),
            // Saturday night lasts into Sunday, which is open all day.
            ("2026-11-21T19:59:59Z", false),
            ("2026-11-21T20:00:00Z", true),
            ("2026-11-21T23:59:59Z", true),
            ("2026-11-22T12:00:00Z", true),
            ("2026-11-22T21:59:59Z", true),
            ("2026-11-22T22:00:00Z", false),
        ] {
            assert_eq!(bar.is_open(moment.parse().unwrap()), open, "{moment}");
        }
        let ladder = Ladder::new("t", Rung::Schedule(bar.into()), [message("last")]);
        let said = |place, moment: &str| match ladder.step(place, moment.parse().unwrap()) {
            Some(Step::Message(it)) => it.text.clone(),
            other => format!("{other:?}"),
        };
        assert_eq!((said(0, "2026-11-23T10:00:00Z"), said(0, "2026-11-23T20:00:00Z")), ("open".into(), "closed".into()));
        assert_eq!((said(1, "2026-11-23T10:00:00Z"), said(2, "2026-11-23T10:00:00Z")), ("last".into(), "None".into()));
    }

    #[test]
    fn a_night_that_loses_an_hour_is_open_all_the_same() {
        let all_night = Schedule {
            zone: TimeZone::get("Europe/Bucharest").unwrap(),
            hours: vec![(Weekday::Saturday, time("20:00"), time("06:00"))],
            holidays: BTreeSet::new(),
            open: message("open"),
            closed: message("closed"),
        };
        // 2026-03-29: 03:00 becomes 04:00.
        let open: Vec<bool> = (0..12)
            .map(|hour| {
                all_night.is_open("2026-03-28T18:00:00Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_hours(hour))
            })
            .collect();
        assert_eq!(open, [true, true, true, true, true, true, true, true, true, false, false, false]);
    }
}
