//! What an assistant may do during a call, besides ending it.

use bridge::{ToolAnswer, ToolDefinition, ToolRequest, Tools};
use futures::future::BoxFuture;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The built-in tools.
pub struct Toolbox {
    time_zone: TimeZone,
}

impl Toolbox {
    /// Times are told in `time_zone`.
    pub fn new(time_zone: TimeZone) -> Self {
        Self { time_zone }
    }
}

/// Models believe that it is the year they were trained in.
const CURRENT_TIME: &str = "current_time";

impl Tools for Toolbox {
    fn definitions(&self, _tenant: &str) -> Vec<ToolDefinition> {
        vec![ToolDefinition {
            name: CURRENT_TIME.into(),
            description: "Tells today's date, the weekday and the time where the business is. Call it before you speak of dates."
                .into(),
            parameters: r#"{"type":"object","properties":{}}"#.into(),
        }]
    }

    fn run(&self, request: ToolRequest) -> BoxFuture<'static, Result<ToolAnswer, String>> {
        let answer = match request.name.as_str() {
            CURRENT_TIME => Ok(tell(Timestamp::now(), &self.time_zone).into()),
            other => Err(format!("there is no tool `{other}`")),
        };
        Box::pin(async { answer })
    }
}

fn tell(now: Timestamp, zone: &TimeZone) -> String {
    let local = now.to_zoned(zone.clone());
    serde_json::json!({
        "date": local.strftime("%Y-%m-%d").to_string(),
        "weekday": local.strftime("%A").to_string(),
        "time": local.strftime("%H:%M").to_string(),
        "time_zone": zone.iana_name().unwrap_or("UTC"),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_local() {
        let zone = TimeZone::get("Europe/Bucharest").unwrap();
        let told = tell("2026-11-20T22:30:00Z".parse().unwrap(), &zone);
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!(
            (told["date"].as_str(), told["weekday"].as_str(), told["time"].as_str()),
            (Some("2026-11-21"), Some("Saturday"), Some("00:30"))
        );
    }
}
