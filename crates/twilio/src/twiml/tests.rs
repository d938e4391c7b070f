use proptest::prelude::*;
use quick_xml::Reader;
use quick_xml::events::Event;

use super::*;

const URL: &str = "https://offhook.example.com/x?a=1&b=2";

fn url() -> Option<String> {
    Some(URL.into())
}

fn stream(value: &str) -> Stream {
    Stream {
        url: "wss://offhook.example.com/twilio-stream".into(),
        status_callback: "https://offhook.example.com/s".into(),
        parameters: vec![Parameter::new("token", value).unwrap()],
        ..Stream::default()
    }
}

#[test]
fn an_answered_call() {
    let document = Response::new()
        .with(Connect { action: "https://offhook.example.com/twilio/next/C1/0#rc=4&rp=all".into(), stream: stream("k3y") })
        .unwrap()
        .with(Redirect::to("https://offhook.example.com/twilio/next/C1/0"))
        .unwrap();
    assert_eq!(
        document.render(),
        concat!(
            r#"<?xml version="1.0" encoding="UTF-8"?><Response>"#,
            r#"<Connect action="https://offhook.example.com/twilio/next/C1/0#rc=4&amp;rp=all" method="POST">"#,
            r#"<Stream url="wss://offhook.example.com/twilio-stream" statusCallback="https://offhook.example.com/s">"#,
            r#"<Parameter name="token" value="k3y"/></Stream></Connect>"#,
            r#"<Redirect method="POST">https://offhook.example.com/twilio/next/C1/0</Redirect></Response>"#
        )
    );
}

fn callback() -> Option<StatusCallback> {
    Some(StatusCallback { url: URL.into(), method: Method::Post, events: vec!["initiated", "completed"] })
}

fn recording() -> Option<RecordingCallback> {
    Some(RecordingCallback { url: URL.into(), method: Method::Get, events: vec!["completed", "absent"] })
}

/// Every verb and noun with every attribute, `text` wherever a person or a model may have written.
fn everything(text: &str) -> Vec<Verb> {
    let say = Say { voice: Some("Polly.Joanna".into()), language: Some("en-US".into()), repeat: Some(2), ..Say::new(text) };
    let number = Number {
        number: "+15550100003".into(),
        send_digits: Some("ww12#".into()),
        url: url(),
        status_callback: callback(),
        machine_detection: Some("Enable"),
    };
    let parameters = vec![Parameter::new("p", text).unwrap()];
    let client = Client { identity: format!("a{text}"), url: url(), status_callback: callback(), parameters };
    let sip = Sip {
        uri: "sip:a@example.com".into(),
        username: Some(text.into()),
        password: Some(text.into()),
        url: url(),
        status_callback: callback(),
    };
    let conference = Conference {
        name: format!("room{text}"),
        muted: Some(true),
        beep: Some("onEnter"),
        start_on_enter: Some(false),
        end_on_exit: Some(true),
        wait_url: url(),
        max_participants: Some(250),
        record: Some(true),
        coach: Some("CA1".into()),
        participant_label: Some(text.into()),
        status_callback: Some(StatusCallback { url: URL.into(), method: Method::Post, events: vec!["start", "leave"] }),
        recording_callback: recording(),
    };
    let dial = |whom: Vec<Dialled>| Dial {
        whom,
        action: url(),
        method: Method::Get,
        timeout: Some(600),
        time_limit: Some(60),
        caller_id: Some("+15550100001".into()),
        answer_on_bridge: Some(true),
        hangup_on_star: Some(true),
        ring_tone: Some("ro".into()),
        record: Some("record-from-answer-dual"),
        recording_track: Some("both"),
        recording_callback: recording(),
        sequential: Some(true),
        call_reason: Some(text.chars().take(50).collect()),
    };
    let gather = Gather {
        action: url(),
        method: Method::Get,
        input: Some("dtmf speech"),
        timeout: Some(5),
        num_digits: Some(1),
        finish_on_key: Some("#".into()),
        action_on_empty_result: Some(true),
        speech_timeout: Some("auto".into()),
        language: Some("ro-RO".into()),
        hints: vec!["one".into(), "two".into()],
        speech_model: Some("phone_call".into()),
        enhanced: Some(true),
        profanity_filter: Some(false),
        barge_in: Some(false),
        partial_result_callback: url(),
        prompts: vec![say.clone().into(), Play::Url { url: URL.into(), repeat: Some(0) }.into(), Pause { seconds: 1 }.into()],
    };
    let record = Record {
        action: url(),
        method: Method::Post,
        timeout: Some(0),
        finish_on_key: Some("12#".into()),
        max_length: Some(120),
        play_beep: Some(true),
        trim: Some(false),
        recording_callback: recording(),
        transcribe_callback: url(),
    };
    let forked = Stream { name: Some(text.into()), track: Some("both_tracks"), ..stream(text) };
    vec![
        say.into(),
        Play::Digits("12w#".into()).into(),
        Pause { seconds: 2 }.into(),
        gather.into(),
        dial(vec![number.into(), client.into(), sip.into()]).into(),
        dial(vec![conference.into()]).into(),
        dial(vec![Queue { name: format!("q{text}"), url: url() }.into()]).into(),
        Connect { action: URL.into(), stream: stream(text) }.into(),
        Start { stream: forked }.into(),
        Stop { stream: format!("s{text}") }.into(),
        Enqueue { name: format!("q{text}"), action: url(), method: Method::Post, wait_url: url(), max_queue_size: Some(5) }
            .into(),
        Leave.into(),
        Refer { uri: "sip:a@example.com".into(), action: url(), method: Method::Post }.into(),
        Message { body: format!("b{text}"), media: vec![URL.into()], to: Some("+15550100001".into()), status_callback: url() }
            .into(),
        record.into(),
    ]
}

/// An element as a reader sees it.
type Seen = (String, Vec<(String, String)>, String, Vec<Node>);

#[derive(Debug, PartialEq, Eq)]
struct Node(Seen);

fn read(xml: &str) -> Vec<Node> {
    let mut reader = Reader::from_str(xml);
    let mut open: Vec<Seen> = vec![Default::default()];
    let attributes = |it: &quick_xml::events::BytesStart<'_>| {
        let pair = |it: quick_xml::events::attributes::Attribute<'_>| {
            (it.key.as_ref().to_owned(), quick_xml::escape::unescape(&it.value).unwrap().into_owned())
        };
        it.attributes().map(|it| pair(it.unwrap())).collect::<Vec<_>>()
    };
    loop {
        match reader.read_event().unwrap() {
            Event::Start(it) => open.push((it.name().as_ref().to_owned(), attributes(&it), String::new(), Vec::new())),
            Event::Empty(it) => {
                let node = Node((it.name().as_ref().to_owned(), attributes(&it), String::new(), Vec::new()));
                open.last_mut().unwrap().3.push(node);
            }
            Event::End(_) => {
                let node = Node(open.pop().unwrap());
                open.last_mut().unwrap().3.push(node);
            }
            Event::Text(it) => open.last_mut().unwrap().2.push_str(&it),
            Event::GeneralRef(it) => {
                let entity = format!("&{};", &*it);
                open.last_mut().unwrap().2.push_str(&quick_xml::escape::unescape(&entity).unwrap());
            }
            Event::Eof => return open.pop().unwrap().3,
            _ => (),
        }
    }
}

fn seen(it: &Element) -> Node {
    let attributes = it.attributes().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Node((it.name().to_owned(), attributes, it.text().to_owned(), it.children().iter().map(seen).collect()))
}

#[test]
fn every_verb_and_attribute_reads_back() {
    let document =
        everything("“Müller & Söhne” <b>\t\"x\"").into_iter().try_fold(Response::new(), |it, verb| it.with(verb)).unwrap();
    let [Node((root, _, _, verbs))] = &read(&document.render())[..] else { panic!("one root") };
    assert_eq!(root, "Response");
    assert_eq!(*verbs, document.verbs().iter().map(seen).collect::<Vec<_>>());
    assert_eq!(verbs.len(), 15);
    for reject in [true, false] {
        let document = Response::new().with(Reject { busy: reject }).unwrap();
        let reason = if reject { "busy" } else { "rejected" };
        assert!(document.render().contains(&format!(r#"<Reject reason="{reason}"/>"#)));
    }
}

#[test]
fn limits_are_checked_at_construction() {
    let refused = |verb: Verb| Response::new().with(verb).unwrap_err().to_string();
    let number = Number::new("+15550100003");
    let dial = || Dial::to(number.clone());
    let gather = || Gather { action: url(), ..Gather::default() };
    let record = || Record { action: url(), ..Record::default() };
    let wrong: Vec<(Verb, &str)> = vec![
        (Say::new("x".repeat(4001)).into(), "<Say text>"),
        (Say::new(" \u{1}").into(), "<Say text>"),
        (Say { language: Some("en_US".into()), ..Say::new("x") }.into(), "<Say language>"),
        (Say { repeat: Some(1001), ..Say::new("x") }.into(), "<Say loop>"),
        (Play::Url { url: "/x.mp3".into(), repeat: None }.into(), "`/x.mp3` is not an absolute https address"),
        (Play::Digits("12x".into()).into(), "<Play digits>"),
        (Pause { seconds: 0 }.into(), "<Pause length>"),
        (Gather::default().into(), "<Gather action>"),
        (Gather { num_digits: Some(0), ..gather() }.into(), "<Gather numDigits>"),
        (Gather { finish_on_key: Some("12".into()), ..gather() }.into(), "<Gather finishOnKey>"),
        (Gather { speech_timeout: Some("auto".into()), ..gather() }.into(), "13335"),
        (Gather { enhanced: Some(true), ..gather() }.into(), "<Gather enhanced>"),
        (Gather { hints: vec!["a,b".into()], ..gather() }.into(), "<Gather hints>"),
        (Gather { hints: vec!["a".into(); 501], ..gather() }.into(), "<Gather hints>"),
        (Gather { input: Some("voice"), ..gather() }.into(), "<Gather input>"),
        (Record::default().into(), "<Record action>"),
        (Record { max_length: Some(1), ..record() }.into(), "<Record maxLength>"),
        (Record { max_length: Some(121), transcribe_callback: url(), ..record() }.into(), "120 seconds"),
        (Dial::default().into(), "<Dial whom>"),
        (Dial { whom: vec![number.clone().into(); 11], ..Dial::default() }.into(), "<Dial whom>"),
        (Dial { timeout: Some(4), ..dial() }.into(), "<Dial timeout>"),
        (Dial { record: Some("yes"), ..dial() }.into(), "<Dial record>"),
        (Dial { caller_id: Some("0712".into()), ..dial() }.into(), "<Dial callerId>"),
        (Dial { call_reason: Some("x".repeat(51)), ..dial() }.into(), "<Dial callReason>"),
        (Dial::to(Number::new("0712345678")).into(), "E.164"),
        (Dial::to(Sip { uri: "a@example.com".into(), ..Sip::default() }).into(), "<Sip uri>"),
        (
            Dial::to(Conference { name: "r".into(), max_participants: Some(251), ..Conference::default() }).into(),
            "maxParticipants",
        ),
        (
            Dial::to(Number {
                status_callback: Some(StatusCallback { url: URL.into(), events: vec!["start"], ..Default::default() }),
                ..number.clone()
            })
            .into(),
            "<Number statusCallbackEvent>",
        ),
        (Redirect::to("/next").into(), "not an absolute"),
        (Connect { action: URL.into(), stream: Stream { url: "wss://h/p?token=1".into(), ..stream("") } }.into(), "has a query"),
        (Connect { action: URL.into(), stream: Stream { url: "https://h/p".into(), ..stream("") } }.into(), "absolute wss"),
        (Refer { uri: "+15550100003".into(), action: None, method: Method::Post }.into(), "<Refer uri>"),
        (Message::default().into(), "<Message body>"),
        (Enqueue::default().into(), "<Enqueue name>"),
        (Stop { stream: String::new() }.into(), "<Stream name>"),
    ];
    for (verb, expected) in wrong {
        let said = refused(verb.clone());
        assert!(said.contains(expected), "{verb:?}: {said}");
    }
    assert!(Parameter::new("name", "v".repeat(496)).is_err() && Parameter::new("name", "v".repeat(495)).is_ok());
    let both = Dial { whom: vec![number.into(), Queue { name: "q".into(), url: None }.into()], ..Dial::default() };
    assert!(refused(both.into()).contains("or one queue"));
    let cut = Response::new().say(&"x".repeat(5000), "en-US");
    assert_eq!(cut.verbs()[0].text().len(), SAY_CHARACTERS_MAX);
}

#[test]
fn what_can_never_run_and_what_twilio_would_not_read_is_refused() {
    let said = Response::new().with(Say::new("x")).unwrap();
    assert!(matches!(said.clone().with(Reject::default()), Err(Invalid::Order(_))));
    assert!(matches!(said.with(Hangup).unwrap().with(Say::new("y")), Err(Invalid::Order(_))));
    let mut document = Response::new();
    let error = loop {
        match document.with(Say::new("&".repeat(4000))) {
            Ok(longer) => document = longer,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Invalid::TooLarge(it) if it > DOCUMENT_BYTES_MAX), "{error}");
}

proptest! {
    #[test]
    fn any_text_reads_back_as_the_same_tree(text in any::<String>(), more in "\\PC{1,60}") {
        let text = format!("{more}{}", text.chars().take(300).collect::<String>());
        for verb in everything(&text) {
            // A text without anything to speak is refused, whatever else is well-formed.
            let Ok(document) = Response::new().with(verb) else {
                prop_assert!(text.trim().is_empty());
                continue;
            };
            let tree = read(&document.render());
            prop_assert_eq!(&tree[0].0.3, &document.verbs().iter().map(seen).collect::<Vec<_>>());
        }
    }
}
