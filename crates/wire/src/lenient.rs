//! Values as peers really send them.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Visitor};

/// A string that borrows from the message unless it holds an escape.
///
/// A type of its own because `Option<Cow<str>>` would always copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// A count that may arrive as `7`, `7.0` or `"7"`; negative and broken ones become 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Number(pub u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lenient;
        impl Visitor<'_> for Lenient {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a count, as number or string")
            }
            fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value.max(0) as u64))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value as u64))
            }
            fn visit_str<E>(self, value: &str) -> Result<Number, E> {
                Ok(Number(value.trim().parse().unwrap_or(0)))
            }
        }
        deserializer.deserialize_any(Lenient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_many_shapes() {
        for (json, value) in [("7", 7), ("7.9", 7), ("\"7\"", 7), ("-3", 0), ("\"x\"", 0)] {
            assert_eq!(serde_json::from_str::<Number>(json).unwrap(), Number(value));
        }
    }

    #[test]
    fn text_borrows_unless_it_is_escaped() {
        assert!(matches!(serde_json::from_str::<Option<Text<'_>>>(r#""abc""#).unwrap().unwrap().0, Cow::Borrowed("abc")));
        assert_eq!(&*serde_json::from_str::<Text<'_>>(r#""a\/b""#).unwrap(), "a/b");
    }
}
