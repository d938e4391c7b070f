//! Tools that every assistant has.

use std::collections::BTreeMap;
use std::sync::Arc;

use bridge::{CallId, ToolAnswer, ToolDefinition, ToolEffect, ToolRequest};
use futures::future::BoxFuture;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use super::Tool;
use super::arguments::Schema;

/// Longest text of a message.
const MESSAGE_CHARACTERS_MAX: usize = 2000;
/// Keys sent at a time.
const KEYS_MAX: usize = 32;

/// A message that a caller left for the business.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub call: CallId,
    pub tenant: Arc<str>,
    /// As the caller gave it.
    pub name: Option<String>,
    pub number: Option<String>,
    pub text: String,
}

/// Takes a message; `false` when it could not be kept.
type Keeper = Arc<dyn Fn(Message) -> BoxFuture<'static, bool> + Send + Sync>;

/// The built-in tools: the time, messages, transfers, keys, patience.
pub struct BuiltIns {
    time_zone: TimeZone,
    /// Names of those whom callers may be connected with.
    destinations: Vec<String>,
    keep: Keeper,
    tools: Vec<BuiltIn>,
}

struct BuiltIn {
    name: &'static str,
    description: String,
    schema: Schema,
}

/// Models believe that it is the year they were trained in.
const CURRENT_TIME: &str = "current_time";
const TAKE_MESSAGE: &str = "take_message";
const TRANSFER: &str = "transfer";
const SEND_DIGITS: &str = "send_digits";
const EXPECT_SPELLING: &str = "expect_spelling";

impl BuiltIns {
    /// Times are told in `time_zone`; messages go to `keep`. Nobody is promised a transfer where there is no destination.
    pub fn new(
        time_zone: TimeZone,
        destinations: &BTreeMap<String, String>,
        keep: impl Fn(Message) -> BoxFuture<'static, bool> + Send + Sync + 'static,
    ) -> Self {
        let destinations: Vec<String> = destinations.keys().cloned().collect();
        let tool = |name, description: &str, properties: Value, required: &[&str]| {
            let schema = json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
            let schema = Schema::new(&schema.to_string()).expect("the built-in schemas are tested");
            BuiltIn { name, description: description.to_owned(), schema }
        };
        let mut tools = vec![
            tool(
                CURRENT_TIME,
                "Tells today's date, the weekday and the time where the business is. Call it before you speak of dates.",
                json!({}),
                &[],
            ),
            tool(
                TAKE_MESSAGE,
                "Takes a message for the business. Call it when the caller wants something passed on; say it back to them first.",
                json!({
                    "text": {"type": "string", "minLength": 1, "maxLength": MESSAGE_CHARACTERS_MAX, "description": "The message"},
                    "name": {"type": "string", "maxLength": 200, "description": "Who it is from"},
                    "number": {"type": "string", "maxLength": 40, "description": "Where they can be called back"},
                }),
                &["text"],
            ),
            tool(
                SEND_DIGITS,
                "Plays telephone keys as tones into the line. Only for menus of other telephone systems.",
                json!({"keys": {"type": "string", "pattern": "^[0-9A-Da-d*#w]+$", "minLength": 1, "maxLength": KEYS_MAX,
                    "description": "Keys 0-9, *, #; w waits half a second"}}),
                &["keys"],
            ),
            tool(
                EXPECT_SPELLING,
                "Call it right before you ask the caller to spell something or to read out a number: they are then given more time.",
                json!({}),
                &[],
            ),
        ];
        if !destinations.is_empty() {
            tools.push(tool(
                TRANSFER,
                "Connects the caller with a person. Call it when the caller asks for one, or when you cannot help.",
                json!({"to": {"type": "string", "enum": destinations, "description": "Whom to connect them with"}}),
                &["to"],
            ));
        }
        Self { time_zone, destinations, keep: Arc::new(keep), tools }
    }

    async fn answer(
        self: Arc<Self>,
        name: &str,
        call: CallId,
        tenant: Arc<str>,
        arguments: Map<String, Value>,
    ) -> Result<ToolAnswer, String> {
        let text =
            |key: &str| arguments.get(key).and_then(Value::as_str).map(|it| it.trim().to_owned()).filter(|it| !it.is_empty());
        match name {
            TAKE_MESSAGE => {
                let words = text("text").ok_or("the message is empty")?;
                let message = Message { call, tenant, name: text("name"), number: text("number"), text: words };
                let kept = (self.keep)(message).await;
                if kept {
                    Ok("the message is taken".to_owned().into())
                } else {
                    Err("the message could not be kept: ask the caller to call again".into())
                }
            }
            TRANSFER => {
                let to = text("to").filter(|it| self.destinations.contains(it)).ok_or("there is nobody of that name")?;
                Ok(ToolAnswer { output: "the caller is being connected".into(), effect: Some(ToolEffect::Transfer(to)) })
            }
            SEND_DIGITS => {
                let keys = text("keys").ok_or("no keys were given")?;
                Ok(ToolAnswer { output: "the keys are sent".into(), effect: Some(ToolEffect::Digits(keys)) })
            }
            EXPECT_SPELLING => {
                Ok(ToolAnswer { output: "the caller is given more time".into(), effect: Some(ToolEffect::Patience) })
            }
            _ => Ok(tell(Timestamp::now(), &self.time_zone).into()),
        }
    }
}

impl Tool for BuiltIns {
    fn definitions(&self, _tenant: &str) -> Vec<ToolDefinition> {
        let define = |it: &BuiltIn| ToolDefinition {
            name: it.name.into(),
            description: it.description.clone(),
            parameters: it.schema.text().to_owned(),
        };
        self.tools.iter().map(define).collect()
    }

    fn run(self: Arc<Self>, request: &ToolRequest) -> Option<BoxFuture<'static, Result<ToolAnswer, String>>> {
        let tool = self.tools.iter().find(|it| it.name == request.name)?;
        let (name, arguments) = (tool.name, tool.schema.read(&request.arguments));
        let (call, tenant) = (request.call.clone(), request.tenant.clone());
        Some(Box::pin(async move { self.answer(name, call, tenant, arguments?).await }))
    }
}

fn tell(now: Timestamp, zone: &TimeZone) -> String {
    let local = now.to_zoned(zone.clone());
    json!({
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

    fn request(name: &str, arguments: &str) -> ToolRequest {
        ToolRequest {
            call: CallId("c".into()),
            tenant: "t".into(),
            id: "1".into(),
            name: name.into(),
            arguments: arguments.into(),
        }
    }

    fn builtins(destinations: &[&str], kept: bool) -> Arc<BuiltIns> {
        let destinations = destinations.iter().map(|it| ((*it).to_owned(), "+40312345678".to_owned())).collect();
        Arc::new(BuiltIns::new(TimeZone::UTC, &destinations, move |_| Box::pin(async move { kept })))
    }

    #[tokio::test]
    async fn what_a_tool_wants_done_comes_with_its_answer() {
        let tools = builtins(&["reception"], true);
        let run = |name: &str, arguments: &str| tools.clone().run(&request(name, arguments)).unwrap();
        let effect = |it: Result<ToolAnswer, String>| it.unwrap().effect;
        assert_eq!(effect(run("transfer", r#"{"to":"reception"}"#).await), Some(ToolEffect::Transfer("reception".into())));
        assert_eq!(effect(run("send_digits", r#"{"keys":"1w2#"}"#).await), Some(ToolEffect::Digits("1w2#".into())));
        assert_eq!(effect(run("expect_spelling", "").await), Some(ToolEffect::Patience));
        assert!(run("take_message", r#"{"text":"call me"}"#).await.is_ok());
        for (name, arguments) in [
            ("transfer", r#"{"to":"the moon"}"#),
            ("send_digits", r#"{"keys":"12x"}"#),
            ("take_message", r#"{"text":""}"#),
            ("take_message", "nonsense"),
        ] {
            assert!(run(name, arguments).await.is_err(), "{name} {arguments}");
        }
        assert!(tools.clone().run(&request("nothing", "{}")).is_none());
        assert!(builtins(&[], false).run(&request("take_message", r#"{"text":"x"}"#)).unwrap().await.is_err(), "not kept");
    }

    #[test]
    fn nobody_is_promised_what_there_is_not() {
        // C-66.
        let offered =
            |destinations: &[&str]| builtins(destinations, true).definitions("t").iter().any(|it| it.name == "transfer");
        assert!(offered(&["reception"]) && !offered(&[]));
    }
}
