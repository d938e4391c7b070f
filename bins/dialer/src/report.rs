//! What a run found, for people and for programs.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// What a measure must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// One thing that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measure {
    pub what: String,
    pub found: f64,
    /// `s`, or nothing for counts.
    pub unit: &'static str,
    pub goal: Option<Goal>,
}

impl Measure {
    /// Whether the goal is met; a measure without goal is a fact.
    pub fn holds(&self) -> bool {
        match self.goal {
            Some(Goal::AtLeast(it)) => self.found >= it,
            Some(Goal::AtMost(it)) => self.found <= it,
            None => true,
        }
    }
}

/// What a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub run: String,
    pub measures: Vec<Measure>,
    /// What went wrong where, for whoever looks into it.
    pub notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(run: impl Into<String>) -> Self {
        Self { run: run.into(), measures: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn count(&mut self, what: impl Into<String>, found: usize, goal: Option<Goal>) {
        self.measures.push(Measure { what: what.into(), found: found as f64, unit: "", goal });
    }

    pub(crate) fn time(&mut self, what: impl Into<String>, found: Duration, goal: Option<Duration>) {
        let goal = goal.map(|it| Goal::AtMost(it.as_secs_f64()));
        self.measures.push(Measure { what: what.into(), found: found.as_secs_f64(), unit: "s", goal });
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Whether every goal is met.
    pub fn holds(&self) -> bool {
        self.measures.iter().all(Measure::holds)
    }

    /// What was found under a name.
    pub fn found(&self, what: &str) -> Option<f64> {
        self.measures.iter().find(|it| it.what == what).map(|it| it.found)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.run)?;
        let width = self.measures.iter().map(|it| it.what.chars().count()).max().unwrap_or(0);
        for it in &self.measures {
            let digits = if it.unit.is_empty() { 0 } else { 2 };
            let number = |it: f64| format!("{it:.digits$}");
            let goal = match it.goal {
                Some(Goal::AtLeast(goal)) => format!("goal ≥ {}", number(goal)),
                Some(Goal::AtMost(goal)) => format!("goal ≤ {}", number(goal)),
                None => String::new(),
            };
            let mark = if it.goal.is_none() {
                " "
            } else if it.holds() {
                "✓"
            } else {
                "✗"
            };
            writeln!(f, "  {mark} {:<width$}  {:>8} {:<1}  {goal}", it.what, number(it.found), it.unit)?;
        }
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        Ok(())
    }
}

/// The value below which a share of all values lies; zero when there are none.
pub(crate) fn percentile(values: &[Duration], share: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort();
    let place = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(place.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<Duration> = (1..=20).rev().map(Duration::from_secs).collect();
        let s = |it: f64| percentile(&values, it).as_secs();
        assert_eq!((s(0.5), s(0.95), s(1.0), s(0.0)), (10, 19, 20, 1));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn a_missed_goal_is_seen() {
        let mut report = Report::new("run");
        report.count("lost", 0, Some(Goal::AtMost(0.0)));
        report.time("gap", Duration::from_millis(2500), Some(Duration::from_secs(3)));
        report.count("calls", 40, None);
        assert!(report.holds());
        report.count("went on", 9, Some(Goal::AtLeast(10.0)));
        assert!(!report.holds());
        let text = report.to_string();
        assert!(text.contains("✗ went on") && text.contains("✓ gap") && text.contains("2.50 s  goal ≤ 3.00"), "{text}");
    }
}
