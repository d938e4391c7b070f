//! Who may call a tenant: callers that are turned away, the only ones that are let in, and those that are answered otherwise.

use serde::{Deserialize, Serialize};
use twilio::is_e164;
use utoipa::ToSchema;

/// Numbers of a list.
const ENTRIES_MAX: usize = 10_000;
/// A caller who hides the number.
const ANONYMOUS: &str = "anonymous";

/// What a tenant configures about callers. An entry is a number in E.164, the beginning of numbers such as `+4090*`, or `anonymous`:
/// callers who hide their number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Callers {
    /// They are turned away, unless they are allowed or VIPs by their whole number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub block: Vec<String>,
    /// If there are any, everybody else is turned away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// They are never turned away, and answered by `vip_route` first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vip: Vec<String>,
    /// The name of an assistant or of a route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip_route: Option<String>,
}

/// How close an entry comes to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    None,
    /// So many characters of the beginning.
    Beginning(usize),
    Whole,
}

fn fit(entries: &[String], caller: Option<&str>) -> Fit {
    // Twilio tells hidden callers by words such as `anonymous` or `restricted`, or not at all.
    let caller = caller.filter(|it| it.starts_with('+'));
    let each = entries.iter().map(|entry| match (entry.strip_suffix('*'), caller) {
        (None, Some(caller)) if entry == caller => Fit::Whole,
        (None, None) if entry == ANONYMOUS => Fit::Whole,
        (Some(beginning), Some(caller)) if caller.starts_with(beginning) => Fit::Beginning(beginning.len()),
        _ => Fit::None,
    });
    each.max().unwrap_or(Fit::None)
}

impl Callers {
    /// What is wrong with the lists: a key and what was expected.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (key, entries) in [("block", &self.block), ("allow", &self.allow), ("vip", &self.vip)] {
            if entries.len() > ENTRIES_MAX {
                problems.push(format!("callers.{key}: expected at most {ENTRIES_MAX} entries"));
            }
            let fits = |it: &&String| match it.strip_suffix('*') {
                Some(beginning) => {
                    let digits = beginning.strip_prefix('+').unwrap_or("x");
                    !digits.is_empty() && digits.len() <= 15 && digits.bytes().all(|it| it.is_ascii_digit())
                }
                None => is_e164(it) || *it == ANONYMOUS,
            };
            if let Some(wrong) = entries.iter().find(|it| !fits(it)) {
                problems.push(format!("callers.{key}: `{wrong}`: expected E.164, a beginning such as +4090*, or anonymous"));
            }
        }
        if self.vip.is_empty() != self.vip_route.is_none() {
            problems.push("callers.vip and callers.vip_route belong together: set both, or none".into());
        }
        problems
    }

    /// Whether somebody is answered otherwise.
    pub(crate) fn is_vip(&self, caller: Option<&str>) -> bool {
        fit(&self.vip, caller) > Fit::None
    }

    /// Whether somebody is turned away: what comes closer to the number decides, and in doubt they are.
    pub(crate) fn turns_away(&self, caller: Option<&str>) -> bool {
        if self.is_vip(caller) {
            return false;
        }
        let (blocked, allowed) = (fit(&self.block, caller), fit(&self.allow, caller));
        match blocked {
            Fit::None => !self.allow.is_empty() && allowed == Fit::None,
            _ => blocked >= allowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn what_comes_closest_decides() {
        // B46.
        let it = Callers {
            block: list(&["+4090*", "+40712345678", "anonymous"]),
            allow: list(&["+40901*", "+40*"]),
            vip: list(&["+40902222222"]),
            vip_route: Some("boss".into()),
        };
        for (caller, away) in [
            (Some("+40712345678"), true),
            (Some("+40712345679"), false),
            (Some("+40905555555"), true),
            (Some("+40901555555"), false),
            (Some("+40902222222"), false),
            (Some("+15550100001"), true),
            (Some("anonymous"), true),
            (Some("restricted"), true),
            (None, true),
        ] {
            assert_eq!(it.turns_away(caller), away, "{caller:?}");
        }
        assert!(it.is_vip(Some("+40902222222")) && !it.is_vip(None) && it.problems().is_empty());
        assert!(!Callers::default().turns_away(None) && !Callers::default().turns_away(Some("+1")));
        let same = Callers { block: list(&["+40*"]), allow: list(&["+40*"]), ..Callers::default() };
        assert!(same.turns_away(Some("+40712345678")), "in doubt");
        let wrong = Callers { block: list(&["*"]), allow: list(&["0712"]), vip: list(&["+40x*"]), ..Callers::default() };
        assert_eq!(wrong.problems().len(), 4, "{:?}", wrong.problems());
    }
}
