//! What callers and assistants do, as small texts; see the crate's README for the words.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A script that says something unknown.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken {
    line: usize,
    problem: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

impl std::error::Error for Broken {}

/// A caller's steps, in order.
#[derive(Clone, Debug, Default)]
pub struct CallerScript(pub(crate) Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Hear { utterance: String, at_least: Option<Duration> },
    Say(String),
    Press(char),
    Wait(Duration),
    HangUp,
    LoseSocket,
    Garbage,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hear { utterance, at_least: None } => write!(f, "hear {utterance}"),
            Self::Hear { utterance, at_least: Some(it) } => write!(f, "hear {utterance} for {}ms", it.as_millis()),
            Self::Say(utterance) => write!(f, "say {utterance}"),
            Self::Press(key) => write!(f, "press {key}"),
            Self::Wait(time) => write!(f, "wait {}ms", time.as_millis()),
            Self::HangUp => f.write_str("hang up"),
            Self::LoseSocket => f.write_str("lose socket"),
            Self::Garbage => f.write_str("garbage"),
        }
    }
}

/// Lines without comments, with their numbers. A comment begins with `# `: `#` alone is a key of the telephone.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("# ").next().unwrap_or_default().trim()))
        .filter(|it| !it.1.is_empty())
}

fn milliseconds(text: &str) -> Option<Duration> {
    text.strip_suffix("ms")?.parse().ok().map(Duration::from_millis)
}

impl FromStr for CallerScript {
    type Err = Broken;

    fn from_str(text: &str) -> Result<Self, Broken> {
        let step = |(line, words): (usize, &str)| {
            let broken = || Broken {
                line,
                problem: format!("`{words}` is no step: hear, say, press, wait, hang up, lose socket, garbage"),
            };
            let words: Vec<&str> = words.split_whitespace().collect();
            match words[..] {
                ["hear", utterance] => Ok(Step::Hear { utterance: utterance.into(), at_least: None }),
                ["hear", utterance, "for", time] => {
                    Ok(Step::Hear { utterance: utterance.into(), at_least: Some(milliseconds(time).ok_or_else(broken)?) })
                }
                ["say", utterance] => Ok(Step::Say(utterance.into())),
                ["press", key] if key.len() == 1 => Ok(Step::Press(key.chars().next().ok_or_else(broken)?)),
                ["wait", time] => Ok(Step::Wait(milliseconds(time).ok_or_else(broken)?)),
                ["hang", "up"] => Ok(Step::HangUp),
                ["lose", "socket"] => Ok(Step::LoseSocket),
                ["garbage"] => Ok(Step::Garbage),
                _ => Err(broken()),
            }
        };
        Ok(Self(lines(text).map(step).collect::<Result<_, _>>()?))
    }
}

/// An assistant's rules: the first that fits is followed.
#[derive(Clone, Debug, Default)]
pub struct AssistantScript(Vec<(Cause, Reply)>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Asked to open the conversation.
    Start,
    /// Asked to go on after a history was replayed.
    Continue,
    /// Asked to say something that nobody in the conversation has asked for.
    Asked,
    Hear(String),
    Key(char),
    Answered(String),
}

/// The first key of what an assistant is told of an entry: one key by "the key 9", several by "keyed 42#".
pub(crate) fn first_key(told: &str) -> Option<char> {
    told.split_once("the key ").or_else(|| told.split_once(" keyed "))?.1.chars().next()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Say(String),
    Call(String),
}

impl AssistantScript {
    pub(crate) fn reply(&self, cause: &Cause) -> Option<&Reply> {
        self.0.iter().find(|it| it.0 == *cause).map(|it| &it.1)
    }
}

impl FromStr for AssistantScript {
    type Err = Broken;

    fn from_str(text: &str) -> Result<Self, Broken> {
        let rule = |(line, words): (usize, &str)| {
            let broken = || Broken {
                line,
                problem: format!("`{words}` is no rule such as `hear book: say booked` or `key 9: call end_call`"),
            };
            let (cause, reply) = words.split_once(':').ok_or_else(broken)?;
            let cause = match cause.split_whitespace().collect::<Vec<_>>()[..] {
                ["start"] => Cause::Start,
                ["continue"] => Cause::Continue,
                ["asked"] => Cause::Asked,
                ["hear", utterance] => Cause::Hear(utterance.into()),
                ["key", key] if key.len() == 1 => Cause::Key(key.chars().next().ok_or_else(broken)?),
                ["answered", tool] => Cause::Answered(tool.into()),
                _ => return Err(broken()),
            };
            let reply = match reply.split_whitespace().collect::<Vec<_>>()[..] {
                ["say", utterance] => Reply::Say(utterance.into()),
                ["call", tool] => Reply::Call(tool.into()),
                _ => return Err(broken()),
            };
            Ok((cause, reply))
        };
        Ok(Self(lines(text).map(rule).collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_read_and_print() {
        let text =
            "hear greeting\nsay book # words\nhear hours for 1500ms\npress 9\npress #\nwait 20ms\nhang up\nlose socket\ngarbage";
        let script: CallerScript = text.parse().unwrap();
        let printed: Vec<String> = script.0.iter().map(ToString::to_string).collect();
        assert_eq!(printed.join("\n"), text.replace(" # words", ""));
        let script: AssistantScript =
            "start: say greeting\nkey 9: call end_call\nanswered end_call: say farewell".parse().unwrap();
        assert_eq!(script.reply(&Cause::Key('9')), Some(&Reply::Call("end_call".into())));
        assert_eq!(script.reply(&Cause::Hear("x".into())), None);
    }

    #[test]
    fn nonsense_is_named_with_its_line() {
        let error = "hear greeting\n\nshout".parse::<CallerScript>().unwrap_err().to_string();
        assert!(error.starts_with("line 3: `shout`"), "{error}");
        assert!("key 99: say x".parse::<AssistantScript>().is_err());
    }
}
