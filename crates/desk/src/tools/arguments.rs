//! Arguments as the model wrote them: anything at all, until they fit the tool's schema.

use serde_json::{Map, Value};

/// Problems that are named at a time: enough for the model to do better.
const PROBLEMS_MAX: usize = 4;
/// Longest arguments: a form with a few texts.
const BYTES_MAX: usize = 32 * 1024;

/// The JSON Schema of a tool's arguments, ready to be applied.
#[derive(Debug)]
pub struct Schema {
    text: String,
    validator: jsonschema::Validator,
}

/// A text that is no schema of an object.
#[derive(Debug, thiserror::Error)]
#[error("the parameters are no JSON Schema of an object: {0}")]
pub struct UnusableSchema(String);

impl Schema {
    /// # Errors
    /// [`UnusableSchema`] says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, UnusableSchema> {
        let value: Value = serde_json::from_str(text).map_err(|error| UnusableSchema(error.to_string()))?;
        if value["type"] != "object" {
            return Err(UnusableSchema("its `type` is not `object`".into()));
        }
        let validator = jsonschema::validator_for(&value).map_err(|error| UnusableSchema(error.to_string()))?;
        Ok(Self { text: value.to_string(), validator })
    }

    /// As a provider is told it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The arguments, if they fit; otherwise what is wrong with them, in words that help a model.
    pub(crate) fn read(&self, arguments: &str) -> Result<Map<String, Value>, String> {
        if arguments.len() > BYTES_MAX {
            return Err("the arguments are far too long".into());
        }
        // Models write nothing where there is nothing to say.
        let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
        let value: Value = serde_json::from_str(arguments).map_err(|_| "the arguments are not JSON".to_owned())?;
        let problems: Vec<String> = self
            .validator
            .iter_errors(&value)
            .take(PROBLEMS_MAX)
            .map(|it| match it.instance_path().to_string() {
                path if path.is_empty() => it.to_string(),
                path => format!("{path}: {it}"),
            })
            .collect();
        match value {
            Value::Object(arguments) if problems.is_empty() => Ok(arguments),
            _ => Err(format!("the arguments do not fit: {}", problems.join("; "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named() {
        let schema = Schema::new(
            r#"{"type":"object","properties":{"guests":{"type":"integer","minimum":1},"day":{"type":"string"}},"required":["guests"],"additionalProperties":false}"#,
        )
        .unwrap();
        assert_eq!(schema.read(r#"{"guests":2}"#).unwrap()["guests"], 2);
        for (arguments, said) in [
            ("{", "not JSON"),
            ("[]", "do not fit"),
            ("", "guests"),
            (r#"{"guests":0}"#, "/guests"),
            (r#"{"guests":2,"dey":"x"}"#, "dey"),
        ] {
            let problem = schema.read(arguments).unwrap_err();
            assert!(problem.contains(said), "{arguments}: {problem}");
        }
        assert!(schema.read(&format!(r#"{{"guests":2,"day":"{}"}}"#, "x".repeat(BYTES_MAX))).is_err());
        for broken in ["", "[]", r#"{"type":"string"}"#, r#"{"type":"object","properties":{"a":{"type":"nonsense"}}}"#] {
            assert!(Schema::new(broken).is_err(), "{broken}");
        }
    }
}
