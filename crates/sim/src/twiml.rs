//! Reads TwiML as Twilio does: strictly where a mistake costs a call.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// A verb that the simulated network can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    Say { characters: usize },
    Pause { seconds: u64 },
    Redirect { url: String },
    Hangup,
    Reject,
    Connect { action: Option<String>, stream: Stream },
    Dial { action: Option<String>, number: String },
}

/// The noun of `<Connect>`: where the media stream goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    pub url: String,
    pub status_callback: Option<String>,
    pub parameters: Vec<(String, String)>,
}

/// Twilio's error code with what was wrong.
pub type Fault = (u32, String);

/// The verbs of a document, in order.
///
/// # Errors
/// [`Fault`] where Twilio would log one and end the call.
pub fn read(document: &str) -> Result<Vec<Verb>, Fault> {
    let broken = |problem: String| (12_100, problem);
    if document.len() > 64 * 1024 {
        return Err((11_750, "the document is larger than 64 kB".into()));
    }
    let (mut reader, mut verbs, mut text) = (Reader::from_str(document), Vec::new(), String::new());
    let mut open: Vec<String> = Vec::new();
    let mut connect: Option<(Option<String>, Option<Stream>)> = None;
    let mut dial: Option<(Option<String>, String)> = None;
    loop {
        let event = reader.read_event().map_err(|error| broken(error.to_string()))?;
        match event {
            Event::Start(ref element) | Event::Empty(ref element) => {
                let name = element.name().as_ref().to_owned();
                let parent = open.last().map(String::as_str);
                match (parent, name.as_str()) {
                    (None, "Response") | (Some("Response"), "Say" | "Redirect") => text.clear(),
                    (None, other) => return Err((12_102, format!("the root is <{other}>, not <Response>"))),
                    (Some("Response"), "Pause") => {
                        verbs.push(Verb::Pause {
                            seconds: attribute(element, "length")?.and_then(|it| it.parse().ok()).unwrap_or(1),
                        });
                    }
                    (Some("Response"), "Hangup") => verbs.push(Verb::Hangup),
                    (Some("Response"), "Reject") => verbs.push(Verb::Reject),
                    (Some("Response"), "Dial") => {
                        let seconds = attribute(element, "timeout")?.map_or(Some(30), |it| it.parse::<u32>().ok());
                        if !seconds.is_some_and(|it| (5..=600).contains(&it)) {
                            return Err((13_212, "the timeout of <Dial> is not 5 to 600 seconds".into()));
                        }
                        dial = Some((attribute(element, "action")?, String::new()));
                    }
                    (Some("Dial"), "Number") => text.clear(),
                    (Some("Response"), "Connect") => connect = Some((attribute(element, "action")?, None)),
                    (Some("Connect"), "Stream") => {
                        let url = attribute(element, "url")?.ok_or_else(|| (31_923, "<Stream> has no url".to_owned()))?;
                        if attribute(element, "track")?.is_some_and(|it| it != "inbound_track") {
                            return Err((31_941, "<Connect><Stream> takes no other track than inbound_track".into()));
                        }
                        let stream =
                            Stream { url, status_callback: attribute(element, "statusCallback")?, parameters: Vec::new() };
                        if let Some((_, slot)) = &mut connect {
                            *slot = Some(stream);
                        }
                    }
                    (Some("Stream"), "Parameter") => {
                        let name = attribute(element, "name")?.unwrap_or_default();
                        let value = attribute(element, "value")?.unwrap_or_default();
                        if name.chars().count() + value.chars().count() >= 500 {
                            return Err((31_951, format!("the parameter `{name}` has 500 characters or more")));
                        }
                        if let Some((_, Some(stream))) = &mut connect {
                            stream.parameters.push((name, value));
                        }
                    }
                    (Some(parent), other) => return Err((12_200, format!("<{other}> is not allowed in <{parent}>"))),
                }
                if matches!(event, Event::Start(_)) {
                    open.push(name);
                } else if name == "Connect" {
                    return Err((31_923, "<Connect> has no noun".into()));
                }
            }
            Event::Text(piece) => text.push_str(&piece),
            Event::GeneralRef(entity) => {
                let entity = format!("&{};", &*entity);
                text.push_str(&quick_xml::escape::unescape(&entity).map_err(|error| broken(error.to_string()))?);
            }
            Event::End(element) => {
                let name = element.name().as_ref().to_owned();
                open.pop();
                match name.as_str() {
                    "Say" => verbs.push(Verb::Say { characters: text.chars().count() }),
                    "Redirect" => verbs.push(Verb::Redirect { url: std::mem::take(&mut text).trim().to_owned() }),
                    "Number" => {
                        if let Some((_, number)) = &mut dial {
                            *number = std::mem::take(&mut text).trim().to_owned();
                        }
                    }
                    "Dial" => match dial.take() {
                        Some((action, number)) if number.starts_with('+') => verbs.push(Verb::Dial { action, number }),
                        _ => return Err((13_223, "<Dial> has no number in E.164".into())),
                    },
                    "Connect" => {
                        let Some((action, Some(stream))) = connect.take() else {
                            return Err((31_923, "<Connect> has no noun".into()));
                        };
                        verbs.push(Verb::Connect { action, stream });
                    }
                    _ => (),
                }
            }
            Event::Eof if open.is_empty() => return Ok(verbs),
            Event::Eof => return Err(broken(format!("<{}> is not closed", open.last().map_or("", String::as_str)))),
            _ => (),
        }
    }
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Result<Option<String>, Fault> {
    let broken = |problem: String| (12_100, problem);
    for attribute in element.attributes() {
        let attribute = attribute.map_err(|error| broken(error.to_string()))?;
        if attribute.key.as_ref() == name {
            return Ok(Some(
                quick_xml::escape::unescape(&attribute.value).map_err(|error| broken(error.to_string()))?.into_owned(),
            ));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_send_is_read() {
        let document = r#"<?xml version="1.0" encoding="UTF-8"?><Response><Connect action="https://h/n#rc=4&amp;rp=all" method="POST"><Stream url="wss://h/s"><Parameter name="t" value="v"/></Stream></Connect><Redirect method="POST">https://h/n</Redirect></Response>"#;
        let stream = Stream { url: "wss://h/s".into(), status_callback: None, parameters: vec![("t".into(), "v".into())] };
        assert_eq!(
            read(document),
            Ok(vec![
                Verb::Connect { action: Some("https://h/n#rc=4&rp=all".into()), stream },
                Verb::Redirect { url: "https://h/n".into() }
            ])
        );
    }

    #[test]
    fn mistakes_have_twilios_codes() {
        let code = |document: &str| read(document).unwrap_err().0;
        assert_eq!(code("<Response><Say>x</Response>"), 12_100);
        assert_eq!(code("<html/>"), 12_102);
        assert_eq!(code("<Response><Dance/></Response>"), 12_200);
        assert_eq!(code(r#"<Response><Connect><Stream url="wss://h" track="both_tracks"/></Connect></Response>"#), 31_941);
        assert_eq!(code("<Response><Connect/></Response>"), 31_923);
    }
}
