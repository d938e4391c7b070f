//! Timelines: `<ms> <input>` per line in, `<ms> <action>` per line out. Time is simulated, frames are real.

use super::*;
use crate::{BackChannel, Confirm, Control, Effect, HeardBy, Interruption, KeyAction, Manner, Mark, Meanwhile};
use proptest::prelude::*;

/// A provider that decides, announces ends and never expires.
const DECIDES: Manner = Manner { decides: true, utterance_gap: None, session_life: None, session_tokens: None };
/// One that leaves everything to us.
const OBEYS: Manner = Manner { decides: false, ..DECIDES };

fn config() -> CallConfig {
    CallConfig { preroll_frames_max: 5, media_timeout: Duration::from_secs(3600), ..CallConfig::new(vec![DECIDES]) }
}

/// A call under test, with the player at Twilio's end: it echoes marks when playback gets there.
struct Bench {
    call: Call,
    actions: Vec<Action>,
    /// Milliseconds of audio, or a mark with the time it came.
    player: VecDeque<Result<u64, (Mark, Duration)>>,
    player_at: Duration,
    echoes: bool,
    transcript: String,
}

impl Bench {
    fn new(config: CallConfig) -> Self {
        Self {
            call: Call::new(config),
            actions: Vec::new(),
            player: VecDeque::new(),
            player_at: Duration::ZERO,
            echoes: true,
            transcript: String::new(),
        }
    }

    fn input(&mut self, now: Duration, input: Input<'_>) {
        self.advance(now);
        self.handle(now, input);
    }

    /// Lets deadlines and echoed marks happen in order up to `until`.
    fn advance(&mut self, until: Duration) {
        loop {
            let deadline = self.call.deadline().map(|(at, _)| at).filter(|at| *at <= until);
            let echo = self.next_echo().filter(|(at, _)| self.echoes && *at <= until);
            match (deadline, echo) {
                (deadline, Some((at, mark))) if deadline.is_none_or(|it| at <= it) => {
                    while let Some(piece) = self.player.pop_front() {
                        if let Ok(ms) = piece {
                            self.player_at += Duration::from_millis(ms);
                        } else {
                            break;
                        }
                    }
                    self.handle(at, Input::MarkPlayed(mark));
                }
                (Some(at), _) => self.handle(at, Input::Tick),
                (None, _) => break,
            }
        }
    }

    fn next_echo(&self) -> Option<(Duration, Mark)> {
        let mut at = self.player_at;
        for piece in &self.player {
            match piece {
                Ok(ms) => at += Duration::from_millis(*ms),
                Err((mark, came)) => return Some((at.max(*came), *mark)),
            }
        }
        None
    }

    /// Lets the player pass what it has played.
    fn play(&mut self, now: Duration) {
        while let Some(Ok(ms)) = self.player.front()
            && self.player_at + Duration::from_millis(*ms) <= now
        {
            self.player_at += Duration::from_millis(*ms);
            self.player.pop_front();
        }
        if self.player.is_empty() {
            self.player_at = self.player_at.max(now);
        }
    }

    fn handle(&mut self, now: Duration, input: Input<'_>) {
        self.play(now);
        self.call.handle(now, input, &mut self.actions);
        let mut line = |text: String| self.transcript.push_str(&format!("{} {text}\n", now.as_millis()));
        let (mut playing, mut cleared) = (0, false);
        for action in self.actions.drain(..) {
            let fade = std::mem::replace(&mut cleared, action == Action::ClearCaller);
            if let Action::PlayToCaller(_) = action {
                self.player.push_back(Ok(20));
                if fade {
                    line("fade".into());
                } else {
                    playing += 20;
                }
                continue;
            }
            if playing > 0 && !matches!(action, Action::MarkCaller(_)) {
                line(format!("play {playing}ms"));
                playing = 0;
            }
            match action {
                Action::MarkCaller(mark) => self.player.push_back(Err((mark, now))),
                Action::ClearCaller => {
                    self.player.clear();
                    self.player_at = now;
                    line("clear".into());
                }
                Action::Truncate { item, heard } => line(format!("truncate i{} {}ms", item.0, heard.as_millis())),
                Action::CancelResponse(response) => line(format!("cancel r{}", response.0)),
                Action::SendToAssistant(_) => line("send".into()),
                Action::RequestResponse(prompt) => line(format!("ask {prompt:?}")),
                Action::TellAssistant(text) => line(format!("tell {text}")),
                Action::InformAssistant(text) => line(format!("inform {text}")),
                Action::ListenPatiently(patient) => line(format!("patient {patient}")),
                Action::ConnectAssistant { candidate } => line(format!("connect a{candidate}")),
                Action::RunTool { id, name, .. } => line(format!("run {id} {name}")),
                Action::AnswerTool { id, failed, respond, .. } => line(format!("answer {id} failed={failed} then {respond:?}")),
                Action::Record(Event::AssistantSaid { text, cut, .. }) => line(format!("record said '{text}' cut={cut}")),
                Action::Record(Event::CallerSaid { text, .. }) => line(format!("record caller '{text}'")),
                Action::Record(Event::Turn(it)) => line(format!(
                    "record turn {}+{}+{}+{}",
                    it.endpointing.as_millis(),
                    it.thinking.as_millis(),
                    it.bridging.as_millis(),
                    it.playout.as_millis()
                )),
                // Where the first sound is of interest a test names it.
                Action::Record(Event::FirstAudio { .. }) => (),
                Action::Record(event) => line(format!("record {event:?}")),
                Action::CloseAssistant => line("close assistant".into()),
                Action::CloseCaller => line("close caller".into()),
                Action::PlayToCaller(_) => unreachable!("handled above"),
            }
        }
        if playing > 0 {
            line(format!("play {playing}ms"));
        }
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some((from, to)) = words[0].split_once('-') {
            // One input for every frame of the time.
            let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
            return (from..to).step_by(20).for_each(|it| self.line(&format!("{it} {}", words[1..].join(" "))));
        }
        let number = |word: &str| word.trim_matches(|it: char| !it.is_ascii_digit()).parse::<u64>().unwrap();
        let now = Duration::from_millis(number(words[0]));
        let response = |word: &str| ResponseId(number(word));
        let item = |word: &str| ItemId(number(word));
        match words[1..] {
            ["ready"] => self.input(now, Input::AssistantReady { opened: false }),
            ["ready", "opened"] => self.input(now, Input::AssistantReady { opened: true }),
            ["starts", r] => self.input(now, Input::ResponseStarted(response(r))),
            ["says", r, i, ms] => {
                let ulaw = vec![0x55; number(ms) as usize * 8];
                self.input(now, Input::AssistantAudio { response: response(r), item: item(i), ulaw: &ulaw });
            }
            ["text", i, ref text @ ..] => self.input(now, Input::AssistantText { item: item(i), text: &text.join(" ") }),
            ["whole", r, i] => self.input(now, Input::AssistantAudioDone { response: response(r), item: item(i) }),
            ["done", r] => self.input(now, Input::ResponseDone(response(r))),
            ["speech"] => self.input(now, Input::CallerSpeechStarted),
            ["pause"] => self.input(now, Input::CallerSpeechStopped { item: None }),
            ["pause", i] => self.input(now, Input::CallerSpeechStopped { item: Some(item(i)) }),
            ["interrupted", r] => self.input(now, Input::AssistantInterrupted { through: response(r) }),
            ["caller", i, ref text @ ..] if i.starts_with('i') && number_of(i).is_some() => {
                self.input(now, Input::CallerText { item: Some(item(i)), text: &text.join(" ") });
            }
            ["caller", ref text @ ..] => self.input(now, Input::CallerText { item: None, text: &text.join(" ") }),
            ["key", key] => self.input(now, Input::CallerKey(key.chars().next().unwrap())),
            ["tool", id, name] => self.input(now, Input::ToolCalled { id, name, arguments: "{}" }),
            ["result", id] => self.input(now, Input::ToolFinished { id, output: "{}", failed: false, effect: None }),
            ["transfers", id, to] => {
                self.input(now, Input::ToolFinished { id, output: "{}", failed: false, effect: Some(Effect::Transfer(to)) });
            }
            ["patience", id] => {
                self.input(now, Input::ToolFinished { id, output: "{}", failed: false, effect: Some(Effect::Patience) });
            }
            ["digits", id, keys] => {
                self.input(now, Input::ToolFinished { id, output: "{}", failed: false, effect: Some(Effect::Digits(keys)) });
            }
            ["stop"] => self.input(now, Input::CallerStopped),
            ["lost"] => self.input(now, Input::AssistantEnded(EndReason::AssistantLost)),
            ["refused"] => self.input(now, Input::AssistantEnded(EndReason::AssistantRefused)),
            ["control", "say", ref text @ ..] => self.input(now, Input::Control(Control::Say(&text.join(" ")))),
            ["control", "inform", ref text @ ..] => self.input(now, Input::Control(Control::Inform(&text.join(" ")))),
            ["control", "mute-caller", on] => self.input(now, Input::Control(Control::MuteCaller(on == "on"))),
            ["control", "mute-assistant", on] => self.input(now, Input::Control(Control::MuteAssistant(on == "on"))),
            ["control", "hold", on] => self.input(now, Input::Control(Control::Hold(on == "on"))),
            ["control", "transfer", to] => self.input(now, Input::Control(Control::Transfer(to))),
            ["control", "hang-up"] => self.input(now, Input::Control(Control::HangUp)),
            ["usage", tokens] => {
                self.input(now, Input::Usage { input_tokens: number(tokens), cached_tokens: 0, output_tokens: 0 });
            }
            ["bye"] => self.input(now, Input::AssistantEnded(EndReason::AssistantHungUp)),
            ["drain"] => self.input(now, Input::Drain),
            ["frame"] => self.input(now, Input::CallerAudio(&Frame::SILENCE)),
            ["voice"] => self.input(now, Input::CallerAudio(&Frame::from_ulaw(&VOICE[..160]))),
            ["until"] => self.advance(now),
            _ => panic!("unknown line: {line}"),
        }
    }
}

fn number_of(word: &str) -> Option<u64> {
    word[1..].parse().ok()
}

/// Audio to the assistant is one line each: too much where frames go on for seconds.
fn without_sends(transcript: &str) -> String {
    transcript.lines().filter(|it| !it.ends_with(" send")).map(|it| format!("{it}\n")).collect()
}

/// A vowel.
const VOICE: &[u8] = include_bytes!("../../../../fixtures/speech/en/caller-book.ulaw").split_at(960).1;

#[track_caller]
fn check_with(config: CallConfig, timeline: &str, expected: &str) {
    let mut bench = Bench::new(config);
    timeline.lines().map(str::trim).filter(|it| !it.is_empty()).for_each(|it| bench.line(it));
    let expected: String = expected.lines().map(str::trim).filter(|it| !it.is_empty()).map(|it| format!("{it}\n")).collect();
    // Playing follows its own clock, and cuts fade; a test that cares says so by naming it.
    let actual: String = bench
        .transcript
        .lines()
        .filter(|it| expected.contains(" play ") || !it.contains(" play "))
        .filter(|it| expected.contains(" fade\n") || !it.ends_with(" fade"))
        .filter(|it| expected.contains(" send\n") || !it.ends_with(" send") || !timeline.contains('-'))
        .map(|it| format!("{it}\n"))
        .collect();
    assert!(actual == expected, "timeline:\n{timeline}\n--- actual\n{actual}--- expected\n{expected}");
}

#[track_caller]
fn check(timeline: &str, expected: &str) {
    check_with(config(), timeline, expected);
}

#[test]
fn audio_is_paced_by_the_lead() {
    check(
        "0 ready
         100 says r1 i1 500ms
         100 whole r1 i1
         1000 until",
        "0 record assistant_ready
         0 ask Greeting
         100 play 200ms
         200 play 100ms
         300 play 100ms
         400 play 100ms",
    );
}

#[test]
fn barge_in_clears_first_and_truncates_to_what_was_heard() {
    check(
        "0 ready
         100 starts r1
         100 text i1 we are open every day from noon
         100 says r1 i1 2000ms
         740 speech",
        "0 record assistant_ready
         0 ask Greeting
         740 clear
         740 truncate i1 640ms
         740 record interrupted(640ms of 2s heard)
         740 record said 'we are' cut=true",
    );
}

#[test]
fn a_generated_answer_that_still_plays_is_cut_too() {
    check(
        "0 ready
         0 starts r1
         0 says r1 i1 1000ms
         0 whole r1 i1
         5 done r1
         300 speech",
        "0 record assistant_ready
         0 ask Greeting
         300 clear
         300 truncate i1 300ms
         300 record interrupted(300ms of 1s heard)",
    );
}

#[test]
fn an_answer_heard_in_full_is_never_truncated() {
    check(
        "0 ready
         0 text i1 hello there
         0 says r1 i1 400ms
         0 whole r1 i1
         2000 speech",
        "0 record assistant_ready
         0 ask Greeting
         400 record said 'hello there' cut=false",
    );
}

#[test]
fn an_underrun_does_not_count_as_heard() {
    check(
        "0 ready
         100 says r1 i1 200ms
         600 says r1 i1 200ms
         700 speech",
        "0 record assistant_ready
         0 ask Greeting
         100 play 200ms
         600 play 200ms
         700 clear
         700 truncate i1 300ms
         700 record interrupted(300ms of 400ms heard)",
    );
}

#[test]
fn speech_that_comes_too_slowly_pauses_and_does_not_stutter() {
    // F7, C-20: 20 ms every 40 ms. Pauses become fewer and longer; nothing is lost.
    let mut bench = Bench::new(config());
    bench.line("0 ready");
    for n in 0..100 {
        bench.line(&format!("{} says r1 i1 20ms", n * 40));
    }
    bench.line("4000 whole r1 i1");
    bench.line("6000 until");
    let counters = bench.call.counters();
    assert_eq!(counters.played_frames, 100);
    assert!((5..=12).contains(&counters.underruns), "{} pauses in 4 s, of 99 that were possible", counters.underruns);
}

#[test]
fn an_answer_without_end_is_bounded_and_what_is_too_much_is_counted() {
    // F6, T18: ten minutes of speech at once, of which two are kept.
    let mut bench = Bench::new(config());
    bench.line("0 ready");
    for n in 0..60 {
        bench.line(&format!("{n} says r1 i1 10000ms"));
    }
    let dropped = bench.call.counters().assistant_ms_dropped;
    assert!((479_000..=480_000).contains(&dropped), "{dropped} ms");
    bench.line("100 speech");
    assert!(bench.transcript.contains("100 clear\n"), "and it can be interrupted");
}

#[test]
fn items_that_were_not_begun_are_forgotten() {
    check(
        "0 ready
         0 says r1 i1 300ms
         0 says r1 i2 300ms
         100 speech",
        "0 record assistant_ready
         0 ask Greeting
         100 clear
         100 truncate i1 100ms
         100 truncate i2 0ms
         100 record interrupted(100ms of 600ms heard)",
    );
}

#[test]
fn late_audio_of_a_cut_answer_is_dropped_and_the_next_one_plays() {
    check(
        "0 ready
         0 starts r1
         0 says r1 i1 1000ms
         90 speech
         110 says r1 i1 500ms
         120 says r1 i2 500ms
         130 whole r1 i1
         140 done r1
         200 starts r2
         210 says r2 i3 40ms
         210 whole r2 i3
         900 until",
        "0 record assistant_ready
         0 ask Greeting
         0 play 200ms
         90 clear
         90 truncate i1 90ms
         90 record interrupted(90ms of 1s heard)
         210 play 40ms",
    );
}

#[test]
fn speech_before_the_first_sound_voids_the_answer() {
    check(
        "0 ready
         0 starts r1
         50 speech
         60 says r1 i1 500ms
         70 done r1
         900 until",
        "0 record assistant_ready
         0 ask Greeting",
    );
}

#[test]
fn a_provider_that_does_not_cancel_is_told_to() {
    check_with(
        CallConfig { assistants: vec![OBEYS], ..config() },
        "0 ready
         0 starts r1
         0 says r1 i1 1000ms
         100 speech",
        "0 record assistant_ready
         0 ask Greeting
         100 clear
         100 truncate i1 100ms
         100 record interrupted(100ms of 1s heard)
         100 cancel r1",
    );
}

#[test]
fn elevenlabs_decides_by_event_id() {
    check_with(
        CallConfig { assistants: vec![Manner { utterance_gap: Some(Duration::from_millis(400)), ..DECIDES }], ..config() },
        "0 ready
         0 says r3 i3 1000ms
         190 interrupted r3
         210 says r3 i3 100ms
         300 says r4 i4 100ms
         300 text i4 sure
         2000 until",
        "0 record assistant_ready
         0 ask Greeting
         0 play 200ms
         100 play 100ms
         190 clear
         190 truncate i3 190ms
         190 record interrupted(190ms of 1s heard)
         300 play 100ms
         700 record said 'sure' cut=false",
    );
}

#[test]
fn caller_audio_waits_for_the_assistant_but_not_without_end() {
    check(
        "0 frame\n20 frame\n40 frame\n60 frame\n80 frame\n100 frame\n120 frame
         130 ready
         140 frame",
        "130 record assistant_ready
         130 ask Greeting
         130 send\n130 send\n130 send\n130 send\n130 send
         140 send",
    );
}

#[test]
fn end_call_plays_the_farewell_to_its_end() {
    check(
        "0 ready
         10 speech
         20 pause
         30 starts r1
         30 tool call_1 end_call
         40 done r1
         60 starts r2
         80 text i2 goodbye
         80 says r2 i2 1000ms
         80 whole r2 i2
         90 done r2
         3000 until",
        "0 record assistant_ready
         0 ask Greeting
         30 record tool_called
         30 record tool_finished
         30 answer call_1 failed=false then Some(Farewell)
         80 record turn 0+60+0+0
         1080 record said 'goodbye' cut=false
         1080 record ended(assistant_hung_up)
         1080 close assistant
         1080 close caller",
    );
}

#[test]
fn words_said_along_with_end_call_are_the_farewell() {
    check(
        "0 ready
         10 caller bye
         30 starts r1
         30 says r1 i1 500ms
         40 whole r1 i1
         50 tool call_1 end_call
         60 done r1
         3000 until",
        "0 record assistant_ready
         0 ask Greeting
         10 record caller 'bye'
         50 record tool_called
         50 record tool_finished
         50 answer call_1 failed=false then None
         530 record ended(assistant_hung_up)
         530 close assistant
         530 close caller",
    );
}

#[test]
fn a_caller_who_speaks_into_the_farewell_is_not_hung_up_on() {
    check(
        "0 ready
         10 caller bye
         30 tool call_1 end_call
         50 says r2 i2 1000ms
         300 speech
         9000 until
         9000 frame",
        "0 record assistant_ready
         0 ask Greeting
         10 record caller 'bye'
         30 record tool_called
         30 record tool_finished
         30 answer call_1 failed=false then Some(Farewell)
         300 clear
         300 truncate i2 250ms
         300 record interrupted(250ms of 1s heard)
         9000 send",
    );
}

#[test]
fn a_caller_who_speaks_before_the_farewell_is_not_hung_up_on() {
    check(
        "0 ready
         10 caller bye
         30 tool call_1 end_call
         300 speech
         9000 until
         9000 frame",
        "0 record assistant_ready
         0 ask Greeting
         10 record caller 'bye'
         30 record tool_called
         30 record tool_finished
         30 answer call_1 failed=false then Some(Farewell)
         9000 send",
    );
}

#[test]
fn arrival_is_measured() {
    let mut call = Call::new(config());
    for ms in [0, 20, 40, 140, 140, 140, 160] {
        call.handle(Duration::from_millis(ms), Input::CallerAudio(&Frame::SILENCE), &mut Vec::new());
    }
    let counters = call.counters();
    assert_eq!(counters.longest_gap, Duration::from_millis(100));
    assert!((Duration::from_millis(5)..Duration::from_millis(8)).contains(&counters.jitter), "{:?}", counters.jitter);
}

#[test]
fn end_call_is_refused_before_the_caller_took_part() {
    // C-54.
    check(
        "0 ready
         30 tool call_1 end_call
         40 tool call_1 end_call",
        "0 record assistant_ready
         0 ask Greeting
         30 record tool_called
         30 record tool_finished
         30 answer call_1 failed=true then Some(Answer)",
    );
}

#[test]
fn a_farewell_that_never_comes_does_not_hold_the_line() {
    // C-51.
    check(
        "0 ready
         10 caller bye
         30 tool call_1 end_call
         9000 until",
        "0 record assistant_ready
         0 ask Greeting
         10 record caller 'bye'
         30 record tool_called
         30 record tool_finished
         30 answer call_1 failed=false then Some(Farewell)
         4030 record ended(assistant_hung_up)
         4030 close assistant
         4030 close caller",
    );
}

#[test]
fn a_lost_mark_does_not_hold_the_line() {
    let mut bench = Bench::new(config());
    bench.echoes = false;
    for line in ["0 ready", "0 says r1 i1 1000ms", "0 bye", "20000 until"] {
        bench.line(line);
    }
    assert!(bench.transcript.contains("5000 record ended(assistant_hung_up)"), "{}", bench.transcript);
}

#[test]
fn a_key_stops_the_assistant_and_is_answered() {
    check(
        "0 ready
         0 starts r1
         0 says r1 i1 1000ms
         300 key 9
         1600 until",
        "0 record assistant_ready
         0 ask Greeting
         300 record key
         300 clear
         300 truncate i1 300ms
         300 record interrupted(300ms of 1s heard)
         300 cancel r1
         1500 tell The caller pressed the key 9 on the telephone.",
    );
}

#[test]
fn keys_that_belong_together_are_told_as_one_entry() {
    check(
        "0 key 0
         50 ready
         1400 key 4
         2000 key 2
         2500 key #
         4000 key 7
         5000 key 8
         6300 until",
        "0 record key
         50 record assistant_ready
         50 ask Greeting
         50 tell The caller pressed the key 0 on the telephone.
         1400 record key
         2000 record key
         2500 record key
         2500 tell The caller keyed 42# on the telephone.
         4000 record key
         5000 record key
         6200 tell The caller keyed 78 on the telephone.",
    );
    // Whoever leans on the keys while nobody listens fills no memory.
    let mut bench = Bench::new(config());
    (0..5000).for_each(|_| bench.line("0 key 5"));
    bench.line("50 ready");
    let told = bench.transcript.lines().find(|it| it.contains("tell")).unwrap();
    assert_eq!(told, format!("50 tell The caller keyed {} on the telephone.", "5".repeat(32)));
}

#[test]
fn tools_run_once_and_not_for_ever() {
    check(
        "0 ready
         10 tool a clock
         20 tool a clock
         30 result a
         40 result a
         50 tool b clock
         30000 until
         30001 result b",
        "0 record assistant_ready
         0 ask Greeting
         10 record tool_called
         10 run a clock
         30 record tool_finished
         30 answer a failed=false then Some(Answer)
         50 record tool_called
         50 run b clock
         20050 record tool_finished
         20050 answer b failed=true then Some(Answer)",
    );
}

/// A provider that obeys; we listen ourselves.
fn ours(confirm: Option<Confirm>) -> CallConfig {
    CallConfig {
        assistants: vec![OBEYS],
        interruption: Interruption { heard_by: HeardBy::Either, confirm, echo_guard: false },
        ..config()
    }
}

#[test]
fn our_own_detector_cuts_when_it_is_first() {
    // B15, B18, C-1, C-7: clear, 20 ms that fade, truncation, cancellation; the provider's later sign changes nothing.
    check_with(
        ours(None),
        "0-100 frame
         100 ready
         100 starts r1
         100 says r1 i1 3000ms
         120-500 frame
         500-700 voice
         700 speech",
        "100 record assistant_ready
         100 ask Greeting
         540 clear
         540 fade
         540 truncate i1 440ms
         540 record interrupted(440ms of 3s heard)
         540 cancel r1",
    );
}

#[test]
fn a_duck_is_lifted_when_the_sound_was_none() {
    // B20, B21, C-9, C-10: the caller coughs, or says \"mhm\"; the assistant goes on as if nothing had been.
    let timeline = |words: &str| {
        format!(
            "0-100 frame
             100 ready
             100 starts r1
             100 says r1 i1 3000ms
             120-500 frame
             500-800 voice
             800-1400 frame
             1400 pause i7
             {words}
             1420-3200 frame"
        )
    };
    let calm = "100 record assistant_ready
         100 ask Greeting
         1410 record caller 'Mhm.'
         1410 record false_alarm";
    check_with(ours(Some(confirmed(Meanwhile::Duck))), &timeline("1410 caller i7 Mhm."), calm);
    // Without words it takes the verdict's time: 1.5 s after the last sound.
    check_with(
        ours(Some(confirmed(Meanwhile::Duck))),
        &timeline(""),
        "100 record assistant_ready
         100 ask Greeting
         2300 record false_alarm",
    );
    // Words that mean something are an interruption however short, and are answered.
    check_with(
        ours(Some(confirmed(Meanwhile::Duck))),
        &timeline("1410 caller i7 Stop!"),
        "100 record assistant_ready
         100 ask Greeting
         1410 record caller 'Stop!'
         1410 clear
         1410 truncate i1 1310ms
         1410 record interrupted(1.31s of 3s heard)
         1410 cancel r1
         1410 ask Answer",
    );
    // Words that come after the verdict count all the same.
    check_with(
        ours(Some(confirmed(Meanwhile::Duck))),
        &(timeline("") + "\n3210 caller i7 Stop!"),
        "100 record assistant_ready
         100 ask Greeting
         2300 record false_alarm
         3210 record caller 'Stop!'
         3210 clear
         3210 truncate i1 3000ms
         3210 record interrupted(3s of 3s heard)
         3210 cancel r1
         3210 ask Answer",
    );
}

#[test]
fn ducked_speech_is_twelve_decibels_down() {
    let mut call = Call::new(ours(Some(confirmed(Meanwhile::Duck))));
    let mut actions = Vec::new();
    let loud = vec![media::g711::ulaw::encode(8000); 8 * 2000];
    call.handle(Duration::ZERO, Input::AssistantReady { opened: false }, &mut actions);
    call.handle(Duration::ZERO, Input::AssistantAudio { response: ResponseId(1), item: ItemId(1), ulaw: &loud }, &mut actions);
    call.handle(Duration::from_millis(300), Input::CallerSpeechStarted, &mut actions);
    actions.clear();
    call.handle(Duration::from_millis(500), Input::Tick, &mut actions);
    let played = actions.iter().find_map(|it| if let Action::PlayToCaller(frame) = it { Some(*frame) } else { None }).unwrap();
    let level = media::g711::ulaw::decode(played.ulaw()[0]);
    assert!((1900..=2100).contains(&level), "{level}");
}

#[test]
fn a_pause_goes_on_from_where_the_ear_was() {
    // B21: 400 ms were heard when the sound came; the rest is played from there, not one byte lost or repeated.
    let mut bench = Bench::new(ours(Some(confirmed(Meanwhile::Pause))));
    for line in ["0-100 frame", "100 ready", "100 starts r1", "100 says r1 i1 1000ms", "100 whole r1 i1", "100 done r1"] {
        bench.line(line);
    }
    bench.line("120-500 frame");
    bench.line("500 speech");
    bench.line("520-800 frame");
    bench.line("800 pause i7");
    bench.line("900 caller i7 ok");
    bench.line("2000 until");
    let played: u64 =
        bench.transcript.lines().filter_map(|it| it.split_once(" play ")?.1.strip_suffix("ms")?.parse::<u64>().ok()).sum();
    let said = without_sends(&bench.transcript);
    // 1000 ms, and once more what Twilio had not played of them when it was cleared.
    assert_eq!(said.matches("clear").count(), 1, "{said}");
    let cleared: u64 = played - 1000;
    assert!((80..=200).contains(&cleared), "{cleared} {said}");
    assert!(said.contains("900 record false_alarm") && !said.contains("truncate") && !said.contains("cancel"), "{said}");
    assert!(bench.call.playback.balances() && !bench.call.playback.is_speaking(), "{said}");
}

#[test]
fn speech_that_lasts_is_an_interruption_before_any_words() {
    check_with(
        ours(Some(confirmed(Meanwhile::Pause))),
        "0-100 frame
         100 ready
         100 starts r1
         100 says r1 i1 3000ms
         120-500 frame
         500-1400 voice
         1400-1420 frame
         1420 pause i7
         1500 caller i7 I want something else",
        "100 record assistant_ready
         100 ask Greeting
         540 clear
         1120 clear
         1120 truncate i1 440ms
         1120 record interrupted(440ms of 3s heard)
         1120 cancel r1
         1420 ask Answer
         1500 record caller 'I want something else'",
    );
}

#[test]
fn a_provider_that_decides_has_the_last_word_and_we_only_duck() {
    // ElevenLabs and OpenAI's automatic mode: our detector is first, lowers the voice, and waits.
    check_with(
        CallConfig { assistants: vec![DECIDES], ..ours(Some(confirmed(Meanwhile::Duck))) },
        "0-100 frame
         100 ready
         100 says r1 i1 5000ms
         120-500 frame
         500-1300 voice
         1300 interrupted r1",
        "100 record assistant_ready
         100 ask Greeting
         1300 clear
         1300 truncate i1 1200ms
         1300 record interrupted(1.2s of 5s heard)",
    );
}

#[test]
fn an_echo_is_no_interruption() {
    // B26, C-8: what the line brings is what was played 100 ms before, 18 dB down.
    let speech = include_bytes!("../../../../fixtures/speech/en/assistant-hours.ulaw");
    let echo: Vec<u8> = std::iter::repeat_n(0xFF, 800)
        .chain(speech.iter().copied())
        .map(|it| media::g711::ulaw::encode((f32::from(media::g711::ulaw::decode(it)) * 0.4) as i16))
        .collect();
    let run = |guard: bool| {
        let interruption = Interruption { echo_guard: guard, ..ours(None).interruption };
        let mut bench = Bench::new(CallConfig { interruption, ..ours(None) });
        bench.line("0 ready");
        bench.line("0 starts r1");
        bench.input(Duration::ZERO, Input::AssistantAudio { response: ResponseId(1), item: ItemId(1), ulaw: &speech[..40_000] });
        for (index, frame) in echo[..40_000].chunks(160).enumerate() {
            let now = Duration::from_millis(index as u64 * 20);
            bench.input(now, Input::CallerAudio(&Frame::from_ulaw(frame)));
            if index == 100 {
                bench.input(now, Input::CallerSpeechStarted);
            }
        }
        (bench.call.counters().echoes, bench.call.counters().interruptions)
    };
    let (echoes, interruptions) = run(true);
    assert!(echoes >= 1 && interruptions == 0, "{echoes} {interruptions}");
    assert_eq!(run(false).1, 1, "without the guard the provider's sign is believed");
}

#[test]
fn a_protected_greeting_is_heard_out_and_the_assistant_hears_nothing_meanwhile() {
    // B22, C-11.
    let mut bench = Bench::new(CallConfig { protect_greeting: true, ..ours(None) });
    for line in ["0-100 frame", "100 ready", "120-300 voice", "300 starts r1", "300 says r1 i1 1000ms", "320 whole r1 i1"] {
        bench.line(line);
    }
    for line in ["320-700 voice", "700 speech", "700-1000 voice", "1000 key 5"] {
        bench.line(line);
    }
    let said = without_sends(&bench.transcript);
    assert!(!said.contains("clear") && !said.contains("cancel"), "{said}");
    let mut actions = Vec::new();
    let voice = Frame::from_ulaw(&VOICE[..160]);
    bench.call.handle(Duration::from_millis(1010), Input::CallerAudio(&voice), &mut actions);
    assert!(actions.contains(&Action::SendToAssistant(Frame::SILENCE)), "{actions:?}");
    actions.clear();
    bench.advance(Duration::from_millis(1400));
    bench.call.handle(Duration::from_millis(1400), Input::CallerAudio(&voice), &mut actions);
    assert!(actions.contains(&Action::SendToAssistant(voice)), "heard again: {actions:?}");
}

#[test]
fn a_notice_is_heard_out_before_anything_else() {
    check_with(
        CallConfig { notice: Some(vec![0x55; 4800].into()), ..config() },
        "0 ready
         100 starts r1
         100 says r1 i1 200ms
         100 whole r1 i1
         300 speech
         1000 until",
        "0 record assistant_ready
         0 ask Greeting
         0 play 200ms
         100 play 100ms
         200 play 100ms
         300 play 100ms
         400 play 100ms
         500 play 100ms
         600 play 100ms",
    );
}

#[test]
fn an_outbound_call_is_opened_when_the_callee_has_spoken_or_is_silent() {
    // C-15. The greeting is ready and waits: no time is lost by it.
    let config = || CallConfig { callee_first: Some(Duration::from_millis(1500)), ..config() };
    check_with(
        config(),
        "0-100 frame
         100 ready
         200 says r1 i1 100ms
         200 whole r1 i1
         220-3000 frame",
        "100 record assistant_ready
         100 ask Greeting
         1500 play 100ms",
    );
    let mut bench = Bench::new(config());
    for line in [
        "0-100 frame",
        "100 ready",
        "200 says r1 i1 100ms",
        "200 whole r1 i1",
        "200-1300 frame",
        "1300-1800 voice",
        "1800-4000 frame",
    ] {
        bench.line(line);
    }
    let opened = bench.transcript.lines().find(|it| it.contains(" play ")).unwrap();
    // The last sound, half a second of silence.
    assert_eq!(opened, "2280 play 100ms", "{}", without_sends(&bench.transcript));
    // Whoever goes on talking is opened to 5 s later.
    let mut bench = Bench::new(config());
    for line in ["0-100 frame", "100 ready", "200 says r1 i1 100ms", "200 whole r1 i1", "200-300 frame", "300-9000 voice"] {
        bench.line(line);
    }
    assert!(bench.transcript.contains("6500 play 100ms"), "{}", without_sends(&bench.transcript));
}

#[test]
fn a_hundred_interruptions_in_one_call() {
    // C-14: the hundredth works like the first.
    for manner in [DECIDES, OBEYS] {
        let mut bench = Bench::new(CallConfig { assistants: vec![manner], ..config() });
        bench.line("0 ready");
        for n in 0..100 {
            let at = n * 3000;
            bench.line(&format!("{} starts r{n}", at + 10));
            bench.line(&format!("{} says r{n} i{n} 2000ms", at + 20));
            bench.line(&format!("{} speech", at + 520));
            bench.line(&format!("{} says r{n} i{n} 500ms", at + 530));
            bench.line(&format!("{} done r{n}", at + 540));
            bench.line(&format!("{} pause", at + 1500));
            assert_eq!(bench.transcript.matches(" clear\n").count(), n + 1);
            assert!(bench.transcript.contains(&format!("{} truncate i{n} 500ms\n", at + 520)), "{n}: {}", bench.transcript);
        }
        assert_eq!(bench.call.counters().interruptions, 100);
        assert_eq!(bench.call.counters().assistant_ms_dropped, 100 * 500);
    }
}

#[test]
fn a_key_may_have_a_meaning_of_its_own() {
    // B11, C-69.
    let config =
        CallConfig { key_actions: vec![('0', KeyAction::Transfer("reception".into())), ('9', KeyAction::HangUp)], ..config() };
    check_with(
        config.clone(),
        "0 ready
         1000 key 0
         2300 says r1 i1 100ms
         2300 whole r1 i1
         3000 until",
        "0 record assistant_ready
         0 ask Greeting
         1000 record key
         2200 record transfer
         2200 ask Connecting
         2400 record ended(transferred)
         2400 close assistant
         2400 close caller",
    );
    check_with(
        config.clone(),
        "0 ready
         1000 key 9
         2300 says r1 i1 100ms
         2300 whole r1 i1
         3000 until",
        "0 record assistant_ready
         0 ask Greeting
         1000 record key
         2200 ask Farewell
         2400 record ended(caller_keyed_out)
         2400 close assistant
         2400 close caller",
    );
    // As part of a number it means nothing, and without an assistant it works as well.
    check_with(
        config,
        "0 key 9
         100 key 0
         200 key #
         5000 key 0
         6300 until",
        "0 record key
         100 record key
         200 record key
         5000 record key",
    );
}

#[test]
fn a_tool_may_transfer_the_caller_or_send_keys() {
    check(
        "0 ready
         10 caller hi
         20 tool t1 transfer
         30 transfers t1 reception
         500 says r1 i1 100ms
         500 whole r1 i1
         900 until",
        "0 record assistant_ready
         0 ask Greeting
         10 record caller 'hi'
         20 record tool_called
         20 run t1 transfer
         30 record tool_finished
         30 answer t1 failed=false then Some(Connecting)
         30 record transfer
         600 record ended(transferred)
         600 close assistant
         600 close caller",
    );
    // B12: a tone of 100 ms and 100 ms of silence for each key; the assistant is asked to go on.
    check(
        "0 ready
         20 tool t1 send_digits
         30 digits t1 42
         900 until",
        "0 record assistant_ready
         0 ask Greeting
         20 record tool_called
         20 run t1 send_digits
         30 record tool_finished
         30 answer t1 failed=false then Some(Answer)
         30 play 200ms
         130 play 100ms
         230 play 100ms",
    );
}

#[test]
fn a_caller_who_spells_is_given_time() {
    // C-13: for one turn.
    check(
        "0 ready
         10 tool t1 expect_spelling
         20 patience t1
         900 pause
         2000 pause",
        "0 record assistant_ready
         0 ask Greeting
         10 record tool_called
         10 run t1 expect_spelling
         20 record tool_finished
         20 answer t1 failed=false then Some(Answer)
         20 patient true
         900 patient false",
    );
}

#[test]
fn who_waits_for_a_tool_hears_something_else_each_time() {
    // B69: only when nothing is being said, and never twice the same in a row.
    let config = CallConfig {
        tool_fillers: vec![vec![0x55; 160].into(), vec![0x55; 320].into()],
        tool_filler_after: Duration::from_secs(2),
        ..config()
    };
    check_with(
        config,
        "0 ready
         0 says r1 i1 1000ms
         0 whole r1 i1
         100 tool t1 look
         12000 result t1
         20000 until",
        "0 record assistant_ready
         0 ask Greeting
         0 play 200ms
         100 play 100ms
         100 record tool_called
         100 run t1 look
         200 play 100ms
         300 play 100ms
         400 play 100ms
         500 play 100ms
         600 play 100ms
         700 play 100ms
         800 play 100ms
         3000 play 20ms
         5020 play 40ms
         7060 play 20ms
         9080 play 40ms
         11120 play 20ms
         12000 record tool_finished
         12000 answer t1 failed=false then Some(Answer)",
    );
}

#[test]
fn a_model_that_calls_tools_in_a_loop_is_stopped() {
    let mut bench = Bench::new(CallConfig { tools_per_turn: 2, tools_per_call: 4, ..config() });
    bench.line("0 ready");
    for n in 1..=3 {
        bench.line(&format!("{n} tool t{n} look"));
        bench.line(&format!("{n} result t{n}"));
    }
    assert!(bench.transcript.contains("3 answer t3 failed=true then Some(Answer)"), "{}", bench.transcript);
    bench.line("10 speech");
    bench.line("20 pause");
    bench.line("30 tool t4 look");
    bench.line("40 tool t5 look");
    assert!(
        bench.transcript.contains("30 run t4") && bench.transcript.contains("40 answer t5 failed=true"),
        "{}",
        bench.transcript
    );
}

#[test]
fn a_live_call_is_controlled_from_outside() {
    check(
        "0 ready
         0 starts r1
         0 says r1 i1 3000ms
         100 control say We close in five minutes.
         200 control inform The caller is a regular guest.
         300 control mute-assistant on
         400 starts r2
         400 says r2 i2 500ms
         500 done r2
         600 control mute-assistant off
         700 control hold on
         800 control hold off
         900 control hang-up
         1000 says r3 i3 100ms
         1000 whole r3 i3
         2000 until",
        "0 record assistant_ready
         0 ask Greeting
         100 record controlled(say)
         100 clear
         100 truncate i1 100ms
         100 record interrupted(100ms of 3s heard)
         100 cancel r1
         100 ask Say(\"We close in five minutes.\")
         200 record controlled(inform)
         200 inform The caller is a regular guest.
         300 record controlled(mute_assistant)
         600 record controlled(unmute_assistant)
         700 record controlled(hold)
         800 record controlled(unhold)
         800 tell The caller was on hold and is back. Go on with them.
         900 record controlled(hang_up)
         900 ask Farewell
         1100 record ended(hung_up_from_outside)
         1100 close assistant
         1100 close caller",
    );
}

#[test]
fn words_that_come_late_belong_to_their_own_turn() {
    // B58, C-31, C-76: the text of the first turn comes after the second was spoken.
    let mut bench = Bench::new(config());
    for line in [
        "0-200 frame",
        "200 ready",
        "200-800 voice",
        "800-1400 frame",
        "1400 pause i1",
        "1420-3000 frame",
        "3000-3600 voice",
        "3600-4200 frame",
        "4200 pause i2",
    ] {
        bench.line(line);
    }
    let mut actions = Vec::new();
    for (item, text) in [(2, "second"), (1, "first")] {
        bench.call.handle(Duration::from_secs(5), Input::CallerText { item: Some(ItemId(item)), text }, &mut actions);
    }
    let said: Vec<(String, u64)> = actions
        .iter()
        .filter_map(|it| match it {
            Action::Record(Event::CallerSaid { text, start, .. }) => Some((text.clone(), start.as_millis() as u64)),
            _ => None,
        })
        .collect();
    assert_eq!(said, [("second".to_owned(), 2980), ("first".to_owned(), 180)]);
}

#[test]
fn a_lost_assistant_finishes_its_words_and_is_replaced() {
    // C-45, C-47, B89: the words go on, the new session is asked to go on, nobody greets again.
    check(
        "0 ready
         0 starts r1
         0 text i1 one moment
         0 says r1 i1 1000ms
         50 lost
         700 ready
         900 until",
        "0 record assistant_ready
         0 ask Greeting
         50 record lost(assistant_lost)
         50 connect a0
         700 record assistant_ready
         700 ask Continuation",
    );
}

#[test]
fn the_ladder_of_a_lost_assistant_is_0_250_1000_ms_then_the_next_one_then_giving_up() {
    let config = CallConfig { assistants: vec![DECIDES, OBEYS], filler: Some(vec![0x55; 160].into()), ..config() };
    check_with(
        config.clone(),
        "0 ready
         0 starts r1
         0 says r1 i1 100ms
         0 whole r1 i1
         200 lost
         300 lost
         600 lost
         1650 lost
         1700 refused
         2000 until",
        "0 record assistant_ready
         0 ask Greeting
         0 play 100ms
         200 record lost(assistant_lost)
         200 connect a0
         300 record lost(assistant_lost)
         550 connect a0
         600 play 20ms
         600 record lost(assistant_lost)
         1600 connect a0
         1650 record lost(assistant_lost)
         1650 connect a1
         1700 record lost(assistant_refused)
         1700 record ended(assistant_refused)
         1700 close caller",
    );
    // Whoever does not answer in time is not waited for twice; a refusal stands.
    check_with(
        config,
        "10100 refused
         10200 until",
        "10000 close assistant
         10000 connect a1
         10100 record ended(assistant_refused)
         10100 close caller",
    );
}

#[test]
fn the_next_assistant_of_the_ladder_has_its_own_manner() {
    let cancels = |second| {
        let mut bench = Bench::new(CallConfig { assistants: vec![DECIDES, second], ..config() });
        for line in ["10000 until", "10100 ready", "10100 starts r1", "10100 says r1 i1 1000ms", "10200 speech"] {
            bench.line(line);
        }
        assert!(bench.transcript.contains("10000 connect a1"), "{}", bench.transcript);
        bench.transcript.contains("10200 cancel r1")
    };
    assert!(cancels(OBEYS));
    assert!(!cancels(DECIDES));
}

#[test]
fn a_caller_who_speaks_while_a_session_is_replaced_is_heard_by_the_next_one() {
    // C-23: what was said and not understood is replayed, at most so many frames of it.
    let mut bench = Bench::new(CallConfig { preroll_frames_max: 8, ..config() });
    bench.line("0 ready");
    for ms in (20..=400).step_by(20) {
        bench.line(&format!("{ms} {}", if ms < 100 { "frame" } else { "voice" }));
    }
    bench.line("410 lost");
    bench.line("420 frame");
    bench.transcript.clear();
    bench.line("430 ready");
    assert_eq!(bench.transcript.matches("430 send\n").count(), 8, "{}", bench.transcript);
    assert!(!bench.transcript.contains("ask"), "what is replayed asks for itself: {}", bench.transcript);
    // What was understood is not said twice: the words are in the history.
    let mut bench = Bench::new(CallConfig { preroll_frames_max: 8, ..config() });
    bench.line("0 ready");
    for ms in (20..=400).step_by(20) {
        bench.line(&format!("{ms} {}", if ms < 100 { "frame" } else { "voice" }));
    }
    for ms in (420..=1000).step_by(20) {
        bench.line(&format!("{ms} frame"));
    }
    bench.line("1000 pause i7");
    bench.line("1010 caller i7 hello");
    bench.line("1020 lost");
    bench.transcript.clear();
    bench.line("1030 ready");
    assert!(!bench.transcript.contains("send"), "{}", bench.transcript);
}

#[test]
fn a_tool_that_outlives_its_session_is_told_to_the_next_one() {
    check(
        "0 ready
         10 tool t1 look
         20 lost
         30 result t1
         40 ready
         50 until",
        "0 record assistant_ready
         0 ask Greeting
         10 record tool_called
         10 run t1 look
         20 record lost(assistant_lost)
         20 connect a0
         30 record tool_finished
         40 record assistant_ready
         40 tell The tool look, which you called before, answered: {}",
    );
}

#[test]
fn a_session_is_rolled_at_a_pause_before_its_provider_ends_it() {
    // C-44, B90. Due at 55 minutes, in the middle of an answer: it waits for the end of the answer.
    let minutes = |it: u64| Duration::from_secs(60 * it);
    let manner = Manner { session_life: Some(minutes(55)), ..DECIDES };
    let config = CallConfig { assistants: vec![manner], duration_max: minutes(120), media_timeout: minutes(120), ..config() };
    check_with(
        config.clone(),
        "0 ready
         3299000 starts r1
         3299000 says r1 i1 3000ms
         3299100 whole r1 i1
         3299200 done r1
         3302500 ready
         3303000 until",
        "0 record assistant_ready
         0 ask Greeting
         3302000 record assistant_rolled
         3302000 close assistant
         3302000 connect a0
         3302500 record assistant_ready",
    );
    // Without any pause it is rolled four minutes later all the same.
    check_with(
        config,
        "0 ready
         3299000 starts r1
         3540001 until",
        "0 record assistant_ready
         0 ask Greeting
         3540000 record assistant_rolled
         3540000 close assistant
         3540000 connect a0",
    );
}

#[test]
fn a_session_that_has_grown_large_is_replaced_in_the_next_pause() {
    // C-30: answers from a long history of sound are slow; a new session is told the words only.
    let manner = Manner { session_tokens: Some(20_000), ..DECIDES };
    check_with(
        CallConfig { assistants: vec![manner], ..config() },
        "0 ready
         0 usage 9000
         1000 starts r1
         1000 says r1 i1 200ms
         1000 whole r1 i1
         1100 usage 20001
         1100 done r1
         1300 until
         2000 ready
         2000 usage 11000
         2100 usage 21000
         2200 usage 22001
         2300 until",
        "0 record assistant_ready
         0 ask Greeting
         1200 record assistant_rolled
         1200 close assistant
         1200 connect a0
         2000 record assistant_ready
         2200 record assistant_rolled
         2200 close assistant
         2200 connect a0",
    );
}

#[test]
fn limits_end_the_call() {
    check(
        "10500 until",
        "10000 close assistant
         10000 record ended(assistant_timeout)
         10000 close caller",
    );
    check_with(
        CallConfig { media_timeout: Duration::from_secs(5), ..config() },
        "0 ready
         1000 frame
         7000 until",
        "0 record assistant_ready
         0 ask Greeting
         1000 send
         6000 record ended(media_stalled)
         6000 close assistant
         6000 close caller",
    );
    check_with(
        CallConfig { duration_max: Duration::from_secs(2), ..config() },
        "0 ready
         2100 says r1 i1 400ms
         2100 whole r1 i1
         7000 until",
        "0 record assistant_ready
         0 ask Greeting
         2000 ask Farewell
         2500 record ended(duration_limit)
         2500 close assistant
         2500 close caller",
    );
}

#[test]
fn a_drain_waits_for_the_utterance() {
    check(
        "0 ready
         0 says r1 i1 600ms
         0 whole r1 i1
         100 drain
         900 until",
        "0 record assistant_ready
         0 ask Greeting
         600 record ended(drained)
         600 close assistant
         600 close caller",
    );
}

#[test]
fn our_own_phrase_plays_at_once_and_is_no_part_of_the_conversation() {
    check_with(
        CallConfig { phrase: Some(vec![0x55; 1600].into()), opening: Prompt::Continuation, ..config() },
        "0 frame
         50 ready
         60 says r1 i1 40ms
         60 whole r1 i1
         900 until",
        "0 play 200ms
         50 record assistant_ready
         50 ask Continuation
         50 send
         60 play 40ms",
    );
}

#[test]
fn an_answer_that_does_not_come_is_asked_for_then_excused_then_the_session_is_given_up() {
    let waiting = || CallConfig {
        answer_due: Some(Duration::from_secs(6)),
        filler: Some(vec![0x55; 160].into()),
        media_timeout: Duration::from_secs(60),
        farewell_timeout: Duration::from_secs(4),
        ..config()
    };
    // From the greeting on.
    check_with(
        waiting(),
        "0 ready
         18100 until",
        "0 record assistant_ready
         0 ask Greeting
         6000 ask Greeting
         12000 play 20ms
         18000 close assistant
         18000 record lost(assistant_lost)
         18000 connect a0",
    );
    // What begins in time is in time; a silent answer and a tool are answers too; who speaks on is not answered yet.
    for line in ["says r1 i1 20ms", "done r1", "tool t1 look", "speech"] {
        let mut bench = Bench::new(waiting());
        bench.line("0 ready");
        bench.line("10 starts r1");
        bench.line(&format!("5900 {line}"));
        bench.line("6500 until");
        assert_eq!(bench.transcript.matches("ask Greeting").count(), 1, "{line}: {}", bench.transcript);
    }
}

#[test]
fn an_answer_that_stops_in_the_middle_is_excused_and_given_up() {
    check_with(
        CallConfig {
            answer_due: Some(Duration::from_secs(6)),
            filler: Some(vec![0x55; 160].into()),
            media_timeout: Duration::from_secs(60),
            ..config()
        },
        "0 ready
         10 starts r1
         20 says r1 i1 500ms
         600 frame
         620 frame
         18700 until",
        "0 record assistant_ready
         0 ask Greeting
         20 play 200ms
         120 play 100ms
         220 play 100ms
         320 play 100ms
         600 send
         620 send
         12600 play 20ms
         18600 close assistant
         18600 record lost(assistant_lost)
         18600 connect a0",
    );
}

#[test]
fn a_silent_caller_is_asked_twice_and_then_told_goodbye() {
    let config = CallConfig {
        idle_after: Some(Duration::from_secs(15)),
        media_timeout: Duration::from_secs(3600),
        duration_max: Duration::from_secs(3600),
        ..config()
    };
    check_with(
        config.clone(),
        "0 ready
         100 says r1 i1 20ms
         100 whole r1 i1
         15500 says r2 i2 20ms
         15500 whole r2 i2
         31000 says r3 i3 20ms
         31000 whole r3 i3
         46500 says r4 i4 20ms
         46500 whole r4 i4
         47000 until",
        "0 record assistant_ready
         0 ask Greeting
         15120 ask AreYouThere
         30520 ask AreYouThere
         46020 ask Farewell
         46520 record ended(caller_silent)
         46520 close assistant
         46520 close caller",
    );
    // Whoever says something is asked afresh, and whoever speaks into the goodbye stays.
    check_with(
        CallConfig { idle_prompts_max: 1, ..config },
        "0 ready
         100 says r1 i1 20ms
         100 whole r1 i1
         15500 says r2 i2 20ms
         15500 whole r2 i2
         20000 key 1
         21300 says r3 i3 20ms
         21300 whole r3 i3
         36500 says r4 i4 20ms
         36500 whole r4 i4
         52000 says r5 i5 2000ms
         52500 speech
         52600 until",
        "0 record assistant_ready
         0 ask Greeting
         15120 ask AreYouThere
         20000 record key
         21200 tell The caller pressed the key 1 on the telephone.
         36320 ask AreYouThere
         51520 ask Farewell
         52500 clear
         52500 truncate i5 500ms
         52500 record interrupted(500ms of 2s heard)",
    );
}

#[test]
fn the_caller_is_warned_before_the_longest_call_ends() {
    check_with(
        CallConfig {
            duration_max: Duration::from_secs(60),
            warn_before: Some(Duration::from_secs(30)),
            media_timeout: Duration::from_secs(3600),
            ..config()
        },
        "0 ready
         61000 until",
        "0 record assistant_ready
         0 ask Greeting
         30000 ask EndingSoon
         60000 ask Farewell",
    );
}

#[test]
fn silence_between_utterances_carries_a_background() {
    check_with(
        CallConfig { fill_silence: true, ..config() },
        "0 frame
         10 ready
         60 says r1 i1 40ms
         60 whole r1 i1
         120 until",
        "0 play 40ms
         10 record assistant_ready
         10 ask Greeting
         10 send
         10 play 20ms
         40 play 20ms
         60 play 20ms
         60 play 40ms
         120 play 20ms",
    );
}

#[test]
fn latency_parts_sum_to_the_whole() {
    // C-25, C-29.
    let mut bench = Bench::new(config());
    bench.line("0 ready");
    for ms in (20..=400).step_by(20) {
        bench.line(&format!("{ms} {}", if (100..=300).contains(&ms) { "voice" } else { "frame" }));
    }
    bench.line("820 pause");
    bench.line("1200 says r1 i1 200ms");
    assert!(bench.transcript.contains("1200 record turn 520+380+0+0\n"), "{}", bench.transcript);
}

#[test]
fn every_input_in_every_state() {
    let inputs: [(&str, &str); 21] = [
        ("tick", "until"),
        ("frame", "frame"),
        ("key", "key 5"),
        ("stop", "stop"),
        ("ready", "ready"),
        ("response", "starts r9"),
        ("done", "done r9"),
        ("audio", "says r9 i9 40ms"),
        ("whole", "whole r9 i9"),
        ("text", "text i9 words"),
        ("caller", "caller words"),
        ("speech", "speech"),
        ("pause", "pause"),
        ("interrupted", "interrupted r9"),
        ("tool", "tool t9 clock"),
        ("end_call", "tool t8 end_call"),
        ("result", "result t1"),
        ("lost", "lost"),
        ("bye", "bye"),
        ("drain", "drain"),
        ("late audio", "says r0 i0 40ms"),
    ];
    let states: [(&str, &[&str]); 5] = [
        ("connecting", &[]),
        ("silent", &["0 ready", "1 caller hi", "2 tool t1 clock"]),
        ("speaking", &["0 ready", "1 caller hi", "2 tool t1 clock", "10 starts r1", "10 says r1 i1 2000ms"]),
        ("ending", &["0 ready", "1 caller hi", "2 tool t1 clock", "10 says r1 i1 2000ms", "20 tool t7 end_call"]),
        ("ended", &["0 ready", "1 caller hi", "2 tool t1 clock", "10 stop"]),
    ];
    let mut table = String::new();
    for (state, prefix) in states {
        for (name, line) in inputs {
            let mut bench = Bench::new(config());
            prefix.iter().for_each(|it| bench.line(it));
            bench.advance(Duration::from_millis(100));
            bench.transcript.clear();
            bench.line(&format!("100 {line}"));
            let actions: Vec<&str> = bench.transcript.lines().map(|it| it.strip_prefix("100 ").unwrap()).collect();
            table.push_str(&format!(
                "{state:<10} × {name:<11} → {}\n",
                if actions.is_empty() { "–".into() } else { actions.join(", ") }
            ));
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/call/every_input_in_every_state.txt");
    if std::env::var_os("UPDATE_TABLE").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap();
    assert!(table == expected, "the table changed; look at it, then run with UPDATE_TABLE=1:\n{table}");
}

/// Interruptions must be proven.
fn confirmed(meanwhile: Meanwhile) -> Confirm {
    Confirm {
        speech: Duration::from_millis(600),
        meanwhile,
        words_within: Duration::from_millis(1500),
        back_channel: BackChannel::new(["mhm", "ok", "i see"]),
    }
}

/// One step of the random walk.
#[derive(Clone, Debug)]
struct Step {
    after_ms: u16,
    kind: u8,
    response: u64,
    item: u64,
    ms: u16,
}

fn step() -> impl Strategy<Value = Step> {
    (0u16..300, 0u8..24, 0u64..6, 0u64..8, 0u16..900).prop_map(|(after_ms, kind, response, item, ms)| Step {
        after_ms,
        kind,
        response,
        item,
        ms,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    /// The failing seed and steps are printed by proptest.
    #[test]
    fn random_walk(steps in prop::collection::vec(step(), 1..80), decides: bool, gap: bool, confirm in 0..3, either: bool) {
        let manner = Manner { decides, utterance_gap: gap.then(|| Duration::from_millis(400)), session_life: Some(Duration::from_secs(7)), session_tokens: Some(500) };
        let meanwhile = if confirm == 1 { Meanwhile::Duck } else { Meanwhile::Pause };
        let mut call = Call::new(CallConfig {
            assistants: vec![manner, DECIDES],
            interruption: Interruption {
                heard_by: if either { HeardBy::Either } else { HeardBy::Provider },
                confirm: (confirm > 0).then(|| confirmed(meanwhile)),
                echo_guard: either,
            },
            protect_greeting: gap,
            callee_first: either.then(|| Duration::from_millis(1500)),
            media_timeout: Duration::from_secs(5),
            duration_max: Duration::from_secs(20),
            warn_before: Some(Duration::from_secs(5)),
            answer_due: gap.then(|| Duration::from_secs(2)),
            idle_after: Some(Duration::from_secs(3)),
            ..config()
        });
        let (mut now, mut actions, mut ended, mut marks) = (Duration::ZERO, Vec::new(), 0, Vec::<Mark>::new());
        // What the walk itself knows: audio received per response, responses voided by a clear, tools run, player fill.
        let mut newest = None::<u64>;
        let mut void_through = None::<u64>;
        let mut received_ms = 0.0_f64;
        let mut played_frames = 0_u64;
        let mut voided = false;
        let mut ran = Vec::<String>::new();
        for step in steps {
            now += Duration::from_millis(u64::from(step.after_ms));
            let ulaw = vec![0x33; usize::from(step.ms) * 8];
            let (response, item) = (ResponseId(step.response), ItemId(step.response * 10 + step.item % 2));
            let tool = format!("t{}", step.item);
            let input = match step.kind {
                0 => Input::Tick,
                1 => Input::CallerKey('1'),
                2 => marks.get(usize::from(step.ms) % marks.len().max(1)).map_or(Input::Tick, |it| Input::MarkPlayed(*it)),
                3 if step.ms < 100 => Input::CallerStopped,
                4 => Input::AssistantReady { opened: step.ms < 100 },
                5 => Input::ResponseStarted(response),
                6 => Input::ResponseDone(response),
                7..=11 => Input::AssistantAudio { response, item, ulaw: &ulaw },
                12 => Input::AssistantAudioDone { response, item },
                13 => Input::AssistantText { item, text: "some words that were said" },
                14 => Input::CallerText { item: (step.ms < 450).then_some(item), text: if step.ms % 2 == 0 { "hello" } else { "mhm" } },
                15 => Input::CallerSpeechStarted,
                16 => Input::CallerSpeechStopped { item: Some(item) },
                17 => Input::AssistantInterrupted { through: response },
                18 if step.ms < 200 => Input::ToolCalled { id: &tool, name: "end_call", arguments: "{}" },
                18 => Input::ToolCalled { id: &tool, name: "clock", arguments: "{}" },
                19 => Input::ToolFinished { id: &tool, output: "x", failed: false, effect: None },
                20 if step.ms < 300 => Input::AssistantEnded(EndReason::AssistantLost),
                20 if step.ms < 350 => Input::AssistantEnded(EndReason::AssistantRefused),
                20 if step.ms < 400 => Input::Control(Control::Say("a sentence")),
                20 if step.ms < 450 => Input::Control(Control::Hold(step.item < 4)),
                20 if step.ms < 500 => Input::Control(Control::MuteAssistant(step.item < 4)),
                20 if step.ms < 520 => Input::Control(Control::Transfer("desk")),
                20 if step.ms < 600 => Input::Usage { input_tokens: u64::from(step.ms) * 4, cached_tokens: 0, output_tokens: 1 },
                21 if step.ms < 100 => Input::Drain,
                22 => Input::CallerAudio(&Frame::from_ulaw(&VOICE[..160])),
                _ => Input::CallerAudio(&Frame::SILENCE),
            };
            let was_ended = call.is_ended();
            if let Input::AssistantAudio { response, .. } = input && !was_ended {
                if void_through.is_none_or(|it| response.0 > it) {
                    voided = false;
                    received_ms += f64::from(step.ms);
                }
                newest = newest.max(Some(response.0));
            }
            match input {
                Input::ResponseStarted(it) | Input::AssistantInterrupted { through: it } => newest = newest.max(Some(it.0)),
                _ => (),
            }
            actions.clear();
            call.handle(now, input, &mut actions);
            prop_assert!(!was_ended || actions.is_empty(), "no action after the end");
            for action in &actions {
                match action {
                    Action::PlayToCaller(frame) => {
                        prop_assert!(!voided, "nothing of a cut answer is played");
                        prop_assert_eq!(frame.ulaw().len(), 160);
                        played_frames += 1;
                    }
                    Action::MarkCaller(mark) => marks.push(*mark),
                    // What Twilio held may be played once more, behind 20 ms that fade.
                    Action::ClearCaller => received_ms += 240.0,
                    Action::RunTool { id, .. } => {
                        prop_assert!(!ran.contains(id), "a tool runs once");
                        ran.push(id.clone());
                    }
                    Action::Truncate { heard, .. } => prop_assert!(*heard <= Duration::from_secs(200)),
                    Action::Record(Event::Interrupted { heard, received, .. }) => {
                        prop_assert!(heard <= received);
                        voided = true;
                        void_through = newest;
                    }
                    Action::Record(Event::Turn(latency)) => prop_assert_eq!(
                        latency.total(),
                        latency.endpointing + latency.thinking + latency.bridging + latency.playout
                    ),
                    Action::CloseCaller => ended += 1,
                    _ => (),
                }
            }
            // Padding adds less than a frame per utterance.
            prop_assert!(call.playback.balances(), "no speech vanishes: C-24");
            prop_assert!(played_frames as f64 * 20.0 <= received_ms + 20.0 * 80.0, "sent ≤ received");
            prop_assert_eq!(call.counters().played_frames, played_frames);
            prop_assert!(call.is_ended() || call.deadline().is_some(), "a live call always has a deadline");
            prop_assert_eq!(call.is_ended(), ended == 1);
            if let Some((at, timer)) = call.deadline() {
                prop_assert!(at > now, "a deadline in the past spins: {timer:?} {at:?} at {now:?}");
            }
        }
        // Whatever happened, time alone ends a call.
        for _ in 0..10_000 {
            let Some((at, _)) = call.deadline() else { break };
            now = now.max(at);
            actions.clear();
            call.handle(now, Input::Tick, &mut actions);
            ended += actions.iter().filter(|it| **it == Action::CloseCaller).count();
        }
        prop_assert_eq!(ended, 1, "one terminal state");
    }
}

/// But for where the ring grows or begins again.
#[test]
fn where_the_next_frame_is_kept_is_told_before() {
    let mut bench = Bench::new(CallConfig { preroll_frames_max: 50, ..config() });
    let mut told = 0;
    for frame in 1..=100 {
        let places: Vec<_> = bench.call.looks_next_at().map(|it| it.addr()..it.addr() + it.len()).collect();
        bench.input(Duration::from_millis(20 * frame), Input::CallerAudio(&Frame::SILENCE));
        let at = std::ptr::from_ref(bench.call.kept.back().unwrap()).addr();
        told += u32::from(places.iter().any(|it| it.contains(&at)));
    }
    assert!(told > 80, "{told} of 100");
}
