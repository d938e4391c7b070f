//! Timelines: `<ms> <input>` per line in, `<ms> <action>` per line out. Time is simulated, frames are real.

use super::*;
use proptest::prelude::*;

fn config() -> CallConfig {
    CallConfig {
        answer_timeout: Duration::from_secs(10),
        preroll_frames_max: 5,
        lead: Duration::from_millis(200),
        fill_silence: false,
        warn_before: None,
        answer_due: None,
        filler: None,
        idle_after: None,
        idle_prompts_max: 2,
        key_gap: Duration::from_millis(1200),
        backlog_max: Duration::from_secs(120),
        farewell_timeout: Duration::from_secs(4),
        media_timeout: Duration::from_secs(3600),
        duration_max: Duration::from_secs(600),
        tool_timeout: Duration::from_secs(20),
        utterance_gap: None,
        provider_cancels: true,
        phrase: None,
        opening: Prompt::Greeting,
    }
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

    fn handle(&mut self, now: Duration, input: Input<'_>) {
        self.call.handle(now, input, &mut self.actions);
        let mut line = |text: String| self.transcript.push_str(&format!("{} {text}\n", now.as_millis()));
        let mut playing = 0;
        for action in self.actions.drain(..) {
            if let Action::PlayToCaller(_) = action {
                if self.player.is_empty() {
                    self.player_at = self.player_at.max(now);
                }
                self.player.push_back(Ok(20));
                playing += 20;
                continue;
            }
            if playing > 0 && !matches!(action, Action::MarkCaller(_)) {
                line(format!("play {playing}ms"));
                playing = 0;
            }
            match action {
                Action::MarkCaller(mark) => {
                    if self.player.is_empty() {
                        self.player_at = self.player_at.max(now);
                    }
                    self.player.push_back(Err((mark, now)));
                }
                Action::ClearCaller => {
                    self.player.clear();
                    line("clear".into());
                }
                Action::Truncate { item, heard } => line(format!("truncate i{} {}ms", item.0, heard.as_millis())),
                Action::CancelResponse(response) => line(format!("cancel r{}", response.0)),
                Action::SendToAssistant(_) => line("send".into()),
                Action::RequestResponse(prompt) => line(format!("ask {prompt:?}")),
                Action::TellAssistant(text) => line(format!("tell {text}")),
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
        let number = |word: &str| word.trim_matches(|it: char| !it.is_ascii_digit()).parse::<u64>().unwrap();
        let now = Duration::from_millis(number(words[0]));
        let response = |word: &str| ResponseId(number(word));
        let item = |word: &str| ItemId(number(word));
        match words[1..] {
            ["ready"] => self.input(now, Input::AssistantReady),
            ["starts", r] => self.input(now, Input::ResponseStarted(response(r))),
            ["says", r, i, ms] => {
                let ulaw = vec![0x55; number(ms) as usize * 8];
                self.input(now, Input::AssistantAudio { response: response(r), item: item(i), ulaw: &ulaw });
            }
            ["text", i, ref text @ ..] => self.input(now, Input::AssistantText { item: item(i), text: &text.join(" ") }),
            ["whole", r, i] => self.input(now, Input::AssistantAudioDone { response: response(r), item: item(i) }),
            ["done", r] => self.input(now, Input::ResponseDone(response(r))),
            ["speech"] => self.input(now, Input::CallerSpeechStarted),
            ["pause"] => self.input(now, Input::CallerSpeechStopped),
            ["interrupted", r] => self.input(now, Input::AssistantInterrupted { through: response(r) }),
            ["caller", ref text @ ..] => self.input(now, Input::CallerText(&text.join(" "))),
            ["key", key] => self.input(now, Input::CallerKey(key.chars().next().unwrap())),
            ["tool", id, name] => self.input(now, Input::ToolCalled { id, name, arguments: "{}" }),
            ["result", id] => self.input(now, Input::ToolFinished { id, output: "{}", failed: false }),
            ["stop"] => self.input(now, Input::CallerStopped),
            ["lost"] => self.input(now, Input::AssistantEnded(EndReason::AssistantLost)),
            ["bye"] => self.input(now, Input::AssistantEnded(EndReason::AssistantHungUp)),
            ["drain"] => self.input(now, Input::Drain),
            ["frame"] => self.input(now, Input::CallerAudio(Frame::SILENCE)),
            ["voice"] => self.input(now, Input::CallerAudio(Frame::from_ulaw(&VOICE[..160]))),
            ["until"] => self.advance(now),
            _ => panic!("unknown line: {line}"),
        }
    }
}

/// A vowel.
const VOICE: &[u8] = include_bytes!("../../../../fixtures/speech/en/caller-book.ulaw").split_at(960).1;

#[track_caller]
fn check_with(config: CallConfig, timeline: &str, expected: &str) {
    let mut bench = Bench::new(config);
    timeline.lines().map(str::trim).filter(|it| !it.is_empty()).for_each(|it| bench.line(it));
    let expected: String = expected.lines().map(str::trim).filter(|it| !it.is_empty()).map(|it| format!("{it}\n")).collect();
    // Playing follows its own clock; a test that cares says so by naming it.
    let actual: String = bench
        .transcript
        .lines()
        .filter(|it| expected.contains(" play ") || !it.contains(" play "))
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
        CallConfig { provider_cancels: false, ..config() },
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
        CallConfig { utterance_gap: Some(Duration::from_millis(400)), ..config() },
        "0 ready
         0 says r3 i3 1000ms
         190 interrupted r3
         210 says r3 i3 100ms
         300 says r4 i4 40ms
         300 text i4 sure
         2000 until",
        "0 record assistant_ready
         0 ask Greeting
         0 play 200ms
         100 play 100ms
         190 clear
         190 truncate i3 190ms
         190 record interrupted(190ms of 1s heard)
         300 play 40ms
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
        call.handle(Duration::from_millis(ms), Input::CallerAudio(Frame::SILENCE), &mut Vec::new());
    }
    let counters = call.counters();
    assert_eq!(counters.longest_gap, Duration::from_millis(100));
    assert!((Duration::from_millis(5)..Duration::from_millis(8)).contains(&counters.jitter), "{:?}", counters.jitter);
}

#[test]
fn end_call_is_refused_before_the_caller_took_part() {
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

#[test]
fn a_lost_assistant_finishes_its_words_first() {
    check(
        "0 ready
         0 text i1 one moment
         0 says r1 i1 300ms
         50 lost
         900 until",
        "0 record assistant_ready
         0 ask Greeting
         300 record said 'one moment' cut=false
         300 record ended(assistant_lost)
         300 close caller",
    );
}

#[test]
fn limits_end_the_call() {
    check(
        "10500 until",
        "10000 record ended(assistant_timeout)
         10000 close assistant
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
         18000 record ended(assistant_lost)
         18000 close assistant
         18000 close caller",
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
         18600 record ended(assistant_lost)
         18600 close assistant
         18600 close caller",
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
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// The failing seed and steps are printed by proptest.
    #[test]
    fn random_walk(steps in prop::collection::vec(step(), 1..80), provider_cancels: bool, gap: bool) {
        let mut call = Call::new(CallConfig {
            provider_cancels,
            utterance_gap: gap.then(|| Duration::from_millis(400)),
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
        let mut cleared_since = false;
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
                4 => Input::AssistantReady,
                5 => Input::ResponseStarted(response),
                6 => Input::ResponseDone(response),
                7..=11 => Input::AssistantAudio { response, item, ulaw: &ulaw },
                12 => Input::AssistantAudioDone { response, item },
                13 => Input::AssistantText { item, text: "some words that were said" },
                14 => Input::CallerText("hello"),
                15 => Input::CallerSpeechStarted,
                16 => Input::CallerSpeechStopped,
                17 => Input::AssistantInterrupted { through: response },
                18 if step.ms < 200 => Input::ToolCalled { id: &tool, name: "end_call", arguments: "{}" },
                18 => Input::ToolCalled { id: &tool, name: "clock", arguments: "{}" },
                19 => Input::ToolFinished { id: &tool, output: "x", failed: false },
                20 if step.ms < 100 => Input::AssistantEnded(EndReason::AssistantLost),
                21 if step.ms < 100 => Input::Drain,
                _ => Input::CallerAudio(Frame::SILENCE),
            };
            let was_ended = call.is_ended();
            if let Input::AssistantAudio { response, .. } = input && !was_ended {
                if void_through.is_none_or(|it| response.0 > it) {
                    cleared_since = false;
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
                        prop_assert!(!cleared_since, "nothing old is played after a clear");
                        prop_assert_eq!(frame.ulaw().len(), 160);
                        played_frames += 1;
                    }
                    Action::MarkCaller(mark) => marks.push(*mark),
                    Action::ClearCaller => {
                        cleared_since = true;
                        void_through = newest;
                    }
                    Action::RunTool { id, .. } => {
                        prop_assert!(!ran.contains(id), "a tool runs once");
                        ran.push(id.clone());
                    }
                    Action::Truncate { heard, .. } => prop_assert!(*heard <= Duration::from_secs(200)),
                    Action::Record(Event::Interrupted { heard, received, .. }) => prop_assert!(heard <= received),
                    Action::Record(Event::Turn(latency)) => prop_assert_eq!(
                        latency.total(),
                        latency.endpointing + latency.thinking + latency.bridging + latency.playout
                    ),
                    Action::CloseCaller => ended += 1,
                    _ => (),
                }
            }
            // Padding adds less than a frame per utterance.
            prop_assert!(call.playback.balances(), "no speech vanishes");
            prop_assert!(played_frames as f64 * 20.0 <= received_ms + 20.0 * 80.0, "sent ≤ received");
            prop_assert_eq!(call.counters().played_frames, played_frames);
            prop_assert!(call.is_ended() || call.deadline().is_some(), "a live call always has a deadline");
            prop_assert_eq!(call.is_ended(), ended == 1);
            if let Some((at, timer)) = call.deadline() {
                prop_assert!(at > now || timer == Timer::Playout, "a deadline in the past spins: {timer:?} {at:?} at {now:?}");
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
