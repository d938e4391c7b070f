//! What goes wrong in the middle of calls, in virtual time: the caller always hears something, the record is right, and
//! nothing is left behind.

use std::future::Future;
use std::time::Duration;

use bridge::{CallId, LiveControl, NotPerformed, Performed};
use call::CallConfig;
use media::file::{Limits, Reader};
use offhook::stage::{CALLED, Format, Options, Provider, Stage, TENANT};
use sim::{Behaviour, CallOutcome, Moment};
use store::{CallRow, Line};

struct Aftermath {
    stage: Stage,
    outcome: CallOutcome,
    row: CallRow,
    folder: std::path::PathBuf,
    lines: Vec<Line>,
}

impl Aftermath {
    fn count(&self, like: impl Fn(&Moment) -> bool) -> usize {
        self.stage.timeline.count(like)
    }

    fn story(&self) -> String {
        let moments = self.stage.timeline.moments();
        moments.iter().map(|it| format!("{:>8.3} {:?}: {}\n", it.0.as_secs_f64(), it.1, it.2)).collect()
    }

    fn answered(&self, path: &str, answer: &str) -> usize {
        self.count(|it| matches!(it, Moment::Webhook { path: p, answer: a, .. } if p.starts_with(path) && a == answer))
    }
}

fn virtual_time<F: Future>(story: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::pause();
        story.await
    })
}

fn options(folder: &tempfile::TempDir, provider: Provider) -> Options {
    Options::simulated(provider, Format::Ulaw, folder.path())
}

/// Rings with a script; checks what every ending must leave behind.
fn after(
    provider: Provider,
    script: &str,
    change: impl FnOnce(&mut Behaviour),
    prepare: impl FnOnce(&mut Stage),
    check: impl FnOnce(&Aftermath),
) {
    after_within(offhook::stage::conversation(), provider, script, change, prepare, check);
}

/// Same, with other limits.
fn after_within(
    conversation: CallConfig,
    provider: Provider,
    script: &str,
    change: impl FnOnce(&mut Behaviour),
    prepare: impl FnOnce(&mut Stage),
    check: impl FnOnce(&Aftermath),
) {
    let folder = tempfile::tempdir().unwrap();
    after_on(Options { conversation, ..options(&folder, provider) }, script, change, prepare, check);
}

/// Same, on a stage of any kind.
fn after_on(
    options: Options,
    script: &str,
    change: impl FnOnce(&mut Behaviour),
    prepare: impl FnOnce(&mut Stage),
    check: impl FnOnce(&Aftermath),
) {
    virtual_time(async {
        let mut stage = Stage::set_with(&options, change).await.unwrap();
        prepare(&mut stage);
        // Let everything that was started come to rest.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let tasks = alive_tasks();
        let outcome = stage.telephone.ring("+15550100001", CALLED, script.parse().unwrap()).await;
        stage.server.bridge.idle().await;
        stage.server.ledger.journal().flush().await;
        let scope = stage.server.store.tenant(TENANT);
        let rows = scope.calls(10).await.unwrap();
        assert_eq!(rows.len(), 1, "one call, one record");
        let lines = scope.transcript(&rows[0].id).await.unwrap();
        let after = Aftermath { outcome, row: rows[0].clone(), folder: options.folder.clone(), lines, stage };
        assert_eq!(after.stage.server.bridge.directory().live(), 0, "no call is left");
        let opened = after.count(|it| *it == Moment::SessionOpened);
        let closed = after.count(|it| matches!(it, Moment::SessionClosed { .. }));
        assert_eq!(opened, closed, "every provider session is closed\n{}", after.story());
        assert_eq!(after.outcome.steps.0, after.outcome.steps.1, "the caller's script is done\n{}", after.story());
        // Close handshakes and keep-alives have their own short limits.
        tokio::time::sleep(Duration::from_secs(15)).await;
        for _ in 0..200 {
            if alive_tasks() > tasks {
                // The database's threads hand connections back in real time.
                tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5))).await.unwrap();
            }
        }
        assert!(alive_tasks() <= tasks, "{} tasks, {tasks} before the call\n{}", alive_tasks(), after.story());
        check(&after);
        after.stage.strike().await;
    });
}

fn alive_tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

fn plain(script: &str, check: impl FnOnce(&Aftermath)) {
    after(Provider::Openai, script, |_| (), |_| (), check);
}

#[test]
fn the_caller_hangs_up_in_the_middle_of_an_answer() {
    for provider in [Provider::Openai, Provider::Elevenlabs] {
        after(
            provider,
            "hear greeting\nsay ask-hours\nhear hours for 1000ms\nhang up",
            |_| (),
            |_| (),
            |it| {
                assert_eq!(it.row.end_reason.as_deref(), Some("caller_hung_up"));
                assert_eq!((it.row.status.as_str(), it.row.epoch), ("completed", 0));
                let last = it.lines.last().unwrap();
                assert!(last.cut && last.text.starts_with("We are open"), "{}", last.text);
                assert_eq!(it.answered("/twilio/next/", "<Response/>"), 1, "{}", it.story());
            },
        );
    }
}

#[test]
fn the_callers_socket_is_lost_and_the_call_goes_on() {
    // C-58.
    plain("hear greeting\nsay ask-hours\nhear hours for 1000ms\nlose socket\nhear resumed\npress 9\nhear farewell", |it| {
        assert_eq!((it.outcome.streams, it.row.epoch, it.row.resumes), (2, 1, 1), "{}", it.story());
        assert_eq!(it.count(|it| matches!(it, Moment::Replayed { items } if *items == 3)), 1, "{}", it.story());
        assert_eq!(it.row.end_reason.as_deref(), Some("assistant_hung_up"));
    });
}

#[test]
fn the_providers_session_expires_and_the_caller_does_not_notice() {
    // C-44, B89: at rest, so nothing is owed and nothing is said.
    for provider in [Provider::Openai, Provider::Elevenlabs] {
        let story = "hear greeting\nwait 17000ms\nsay book\nhear booked\nhang up";
        after(
            provider,
            story,
            |it| it.session_max = Duration::from_secs(20),
            |_| (),
            |it| {
                assert_eq!((it.outcome.streams, it.row.epoch, it.row.sessions_lost), (1, 0, 1), "{}", it.story());
                assert_eq!(it.count(|it| matches!(it, Moment::CallerHeard { .. })), 2, "nothing else: {}", it.story());
            },
        );
    }
}

#[test]
fn the_providers_socket_breaks_in_the_middle_of_a_sentence() {
    // F1, B89, C-45, C-47, C-50: the words that came are heard, then the rest of the conversation, in the same stream.
    for provider in [Provider::Openai, Provider::Elevenlabs] {
        after(
            provider,
            "hear greeting\nsay ask-hours\nhear hours for 1000ms\nhear resumed\npress 9\nhear farewell",
            |it| it.breaks_after = Some(Duration::from_millis(6500)),
            |_| (),
            |it| {
                assert_eq!((it.outcome.streams, it.row.epoch, it.row.sessions_lost), (1, 0, 1), "{}", it.story());
                assert_eq!(it.row.end_reason.as_deref(), Some("assistant_hung_up"), "{}", it.story());
                let cut: Vec<&Line> = it.lines.iter().filter(|it| it.text.starts_with("We are open")).collect();
                assert!(cut.len() == 1 && cut[0].cut && cut[0].text.len() > 20, "{:?}", cut[0].text);
                assert_eq!(it.count(|it| matches!(it, Moment::Replayed { items: 3 })), 1, "{}", it.story());
                let moments = it.stage.timeline.moments();
                let at = |like: fn(&Moment) -> bool| moments.iter().rfind(|it| like(&it.2)).unwrap().0;
                let lost = moments.iter().find(|it| it.2 == Moment::SessionClosed { code: None }).unwrap().0;
                let again = at(|it| matches!(it, Moment::SpeaksTo { utterance: "resumed" }));
                assert!(again - lost < Duration::from_millis(1500), "{again:?} {lost:?}");
            },
        );
    }
}

#[test]
fn a_provider_that_dies_at_once_and_always_is_given_up_with_an_apology() {
    after(
        Provider::Openai,
        "",
        |it| it.session_max = Duration::from_millis(1),
        |_| (),
        |it| {
            assert_eq!((it.outcome.streams, it.row.end_reason.as_deref()), (1, Some("assistant_lost")), "{}", it.story());
            assert_eq!(it.answered("/twilio/next/", "<Say> <Hangup/>"), 1, "{}", it.story());
            assert!(it.count(|it| *it == Moment::SessionOpened) <= 5, "{}", it.story());
        },
    );
}

#[test]
fn a_refused_key_is_an_apology_at_once_and_then_not_even_a_dial() {
    // F2: within three seconds, and the account rests.
    for provider in [Provider::Openai, Provider::Elevenlabs] {
        after(
            provider,
            "",
            |it| it.api_key = "another".into(),
            |_| (),
            |it| {
                assert_eq!(it.row.end_reason.as_deref(), Some("assistant_refused"), "{}", it.story());
                assert_eq!(it.answered("/twilio/next/", "<Say> <Hangup/>"), 1, "{}", it.story());
                assert_eq!(it.count(|it| matches!(it, Moment::SessionRefused { .. })), 1, "{}", it.story());
                let spoken = it.stage.timeline.moments().last().unwrap().0;
                assert!(spoken < Duration::from_secs(10), "the apology takes its time, nothing else: {}", it.story());
            },
        );
    }
}

#[test]
fn a_provider_that_hangs_is_asked_again_excused_and_replaced() {
    // C-12.
    for provider in [Provider::Openai, Provider::Elevenlabs] {
        after(
            provider,
            "hear greeting\nsay ask-hours\nhear hours\nsay book\nhear resumed\nhang up",
            |it| it.answers_max = 2,
            |_| (),
            |it| {
                assert_eq!((it.outcome.streams, it.row.epoch, it.row.sessions_lost), (1, 0, 1), "{}", it.story());
                assert_eq!(it.row.end_reason.as_deref(), Some("caller_hung_up"));
                // Six seconds to the second question, six to the excuse, six to the replacement.
                assert!(it.outcome.duration > Duration::from_secs(18 + 15), "{:?}", it.outcome.duration);
            },
        );
    }
}

#[test]
fn a_session_that_answers_with_errors_only_is_replaced() {
    // F4, C-46: two errors in a row, nothing said between them.
    after(
        Provider::Openai,
        "hear greeting\nsay ask-hours\nhear hours\npress 9\nhear resumed\nhang up",
        |it| it.poisoned_after = Some(2),
        |_| (),
        |it| {
            assert_eq!((it.outcome.streams, it.row.sessions_lost), (1, 1), "{}", it.story());
            assert_eq!(it.count(|it| *it == Moment::SessionOpened), 2, "{}", it.story());
        },
    );
}

#[test]
fn an_answer_that_is_only_written_is_asked_for_again_and_said() {
    // T18: nobody hears text. It leaves the conversation too, or the model goes on writing.
    after(
        Provider::Openai,
        "hear greeting\nsay ask-hours\nhear hours\nhang up",
        |it| it.text_only = Some(2),
        |_| (),
        |it| {
            assert_eq!((it.outcome.streams, it.row.sessions_lost), (1, 0), "{}", it.story());
            assert!(it.lines.iter().any(|it| it.text.starts_with("We are open") && !it.cut), "{}", it.story());
        },
    );
}

#[test]
fn speech_that_comes_more_slowly_than_it_plays_is_heard_in_full() {
    // F7, C-20.
    for provider in [Provider::Openai, Provider::Elevenlabs] {
        after(
            provider,
            // The simulated ear knows speech without pauses only.
            "wait 15000ms\nsay ask-hours\nwait 25000ms\nhang up",
            |it| it.burst = 0.8,
            |_| (),
            |it| {
                assert_eq!((it.outcome.streams, it.row.sessions_lost), (1, 0), "{}", it.story());
                assert!(it.row.underruns > 0, "{}", it.story());
                assert!(it.lines.len() == 3 && it.lines.iter().all(|it| !it.cut), "{}", it.story());
            },
        );
    }
}

#[test]
fn garbage_of_a_provider_is_survived() {
    // F6: two broken events are dropped, a third one means another session; unknown ones mean nothing.
    for (provider, nonsense, lost) in [
        (Provider::Openai, vec!["{", r#"{"type":"response.output_audio.delta"}"#, r#"{"type":"brand.new","x":1}"#], 0),
        (Provider::Elevenlabs, vec![r#"{"type":"brand_new"}"#, r#"{"type":"vad_score","vad_score_event":{"vad_score":0.4}}"#], 0),
    ] {
        after(
            provider,
            "hear greeting\nsay book\nhear booked\nhang up",
            |it| it.nonsense = nonsense.into_iter().map(str::to_owned).collect(),
            |_| (),
            |it| assert_eq!((it.row.sessions_lost, it.outcome.streams), (lost, 1), "{}", it.story()),
        );
    }
    after(
        Provider::Openai,
        "",
        |it| it.nonsense = vec!["{".to_owned(); 3],
        |_| (),
        |it| assert_eq!(it.answered("/twilio/next/", "<Say> <Hangup/>"), 1, "it never becomes better: {}", it.story()),
    );
}

#[test]
fn a_session_is_ready_before_the_caller_is() {
    // C-27, B32, B98: opened while it rings, greeting under way; first sound within 300 ms of the stream's start.
    for provider in [Provider::Openai, Provider::Elevenlabs] {
        after(
            provider,
            "hear greeting\nsay book\nhear booked\nhang up",
            |it| {
                it.setup = Duration::from_millis(400);
                it.thinking = Duration::from_millis(800);
            },
            |it| it.telephone.connecting = Duration::from_millis(1500),
            |it| {
                assert!(it.row.first_audio_ms.is_some_and(|it| it <= 300), "{:?} {}", it.row.first_audio_ms, it.story());
                assert_eq!(it.count(|it| *it == Moment::SessionOpened), 1, "{}", it.story());
            },
        );
    }
}

#[test]
fn a_session_that_nobody_claims_is_released() {
    let folder = tempfile::tempdir().unwrap();
    virtual_time(async {
        let mut stage = Stage::set(&options(&folder, Provider::Openai)).await.unwrap();
        // The caller hangs up before the stream begins.
        stage.telephone.connecting = Duration::from_secs(120);
        let ringing = stage.telephone.ring("+15550100001", CALLED, "hear greeting".parse().unwrap());
        let _ = tokio::time::timeout(Duration::from_secs(29), ringing).await;
        let closed = |stage: &Stage| stage.timeline.count(|it| matches!(it, Moment::SessionClosed { code: Some(1000) }));
        assert_eq!((stage.timeline.count(|it| *it == Moment::SessionOpened), closed(&stage)), (1, 0));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(closed(&stage), 1, "released 30 s after it rang");
        stage.strike().await;
    });
}

#[test]
fn a_number_keyed_in_is_one_entry_for_the_assistant() {
    plain("hear greeting\npress 4\npress 2\npress #\nwait 3000ms\nhang up", |it| {
        let told = |text: &str| it.count(|it| matches!(it, Moment::ToldInText { text: it } if it.contains(text)));
        assert_eq!((told("keyed 42#"), told("The caller")), (1, 1), "{}", it.story());
    });
}

#[test]
fn a_caller_who_says_nothing_is_asked_twice_and_told_goodbye() {
    for provider in [Provider::Openai, Provider::Elevenlabs] {
        let conversation = CallConfig { idle_after: Some(Duration::from_secs(15)), ..offhook::stage::conversation() };
        after_within(
            conversation,
            provider,
            "hear greeting\nhear resumed\nhear resumed\nhear resumed",
            |it| it.script = "start: say greeting\nasked: say resumed".parse().unwrap(),
            |_| (),
            |it| {
                assert_eq!(it.row.end_reason.as_deref(), Some("caller_silent"), "{}", it.story());
                assert_eq!(it.answered("/twilio/next/", "<Hangup/>"), 1, "{}", it.story());
                assert!((50..70).contains(&it.outcome.duration.as_secs()), "{:?}", it.outcome.duration);
            },
        );
    }
}

#[test]
fn a_caller_is_warned_before_the_longest_call_ends() {
    let conversation = CallConfig {
        duration_max: Duration::from_secs(40),
        warn_before: Some(Duration::from_secs(20)),
        ..offhook::stage::conversation()
    };
    after_within(
        conversation,
        Provider::Openai,
        "hear greeting\nhear resumed\nhear resumed",
        |it| it.script = "start: say greeting\nasked: say resumed".parse().unwrap(),
        |_| (),
        |it| {
            assert_eq!(it.row.end_reason.as_deref(), Some("duration_limit"), "{}", it.story());
            assert!((40..50).contains(&it.outcome.duration.as_secs()), "{:?}", it.outcome.duration);
        },
    );
}

#[test]
fn an_agent_that_permits_no_overrides_works_without_and_one_that_ends_by_itself_ends_the_call() {
    after(
        Provider::Elevenlabs,
        "hear greeting\nsay ask-hours\nhear hours",
        |it| it.hangs_up_after = Some(Duration::from_millis(15_500)),
        |_| (),
        |it| {
            assert_eq!(it.row.end_reason.as_deref(), Some("assistant_hung_up"), "{}", it.story());
            assert_eq!(it.answered("/twilio/next/", "<Hangup/>"), 1);
        },
    );
}

#[test]
fn an_agent_may_be_public_and_may_permit_overrides_or_not() {
    let story = "hear greeting\nsay ask-hours\nhear hours\nhang up";
    // No key: the agent is talked to by its name, without a signed address.
    after(
        Provider::Elevenlabs,
        story,
        |it| it.api_key.clear(),
        |_| (),
        |it| {
            assert_eq!(it.row.end_reason.as_deref(), Some("caller_hung_up"), "{}", it.story());
        },
    );
    for (permits, reason, story) in [(true, "caller_hung_up", story), (false, "assistant_refused", "")] {
        let folder = tempfile::tempdir().unwrap();
        after_on(
            Options { overrides: true, ..options(&folder, Provider::Elevenlabs) },
            story,
            |it| it.permits_overrides = permits,
            |_| (),
            |it| assert_eq!(it.row.end_reason.as_deref(), Some(reason), "{}", it.story()),
        );
    }
}

#[test]
fn a_message_that_is_too_large_costs_its_session_and_nothing_else() {
    // F6, T18: five megabytes, where four are the limit; it never becomes better, so the caller is told.
    after(
        Provider::Openai,
        "",
        |it| it.nonsense = vec![format!(r#"{{"type":"brand.new","x":"{}"}}"#, "y".repeat(5 << 20))],
        |_| (),
        |it| {
            assert_eq!(it.row.end_reason.as_deref(), Some("assistant_resting"), "{}", it.story());
            assert_eq!(it.count(|it| *it == Moment::SessionOpened), 3, "then its account rests: {}", it.story());
            assert_eq!(it.answered("/twilio/next/", "<Say> <Hangup/>"), 1, "{}", it.story());
        },
    );
}

#[test]
fn a_webhook_that_comes_twice_is_one_call() {
    after(
        Provider::Openai,
        "hear greeting\npress 9\nhear farewell",
        |_| (),
        |it| it.telephone.repeat_first_webhook = true,
        |it| {
            assert_eq!(it.answered("/twilio/voice", "<Connect><Stream> <Redirect>"), 2);
            assert_eq!((it.outcome.streams, it.count(|it| *it == Moment::SessionOpened)), (1, 1));
        },
    );
}

#[test]
fn one_broken_message_is_no_reason_to_hang_up() {
    plain("hear greeting\ngarbage\npress 9\nhear farewell", |it| {
        assert_eq!(it.row.end_reason.as_deref(), Some("assistant_hung_up"));
    });
}

#[test]
fn ten_broken_messages_are() {
    plain(&format!("hear greeting\n{}", "garbage\n".repeat(10)), |it| {
        assert_eq!(it.row.end_reason.as_deref(), Some("caller_misbehaved"));
        assert_eq!(it.answered("/twilio/next/", "<Hangup/>"), 1);
    });
}

#[test]
fn a_key_interrupts() {
    for provider in [Provider::Openai, Provider::Elevenlabs] {
        after(
            provider,
            "hear greeting for 1000ms\npress 9\nhear farewell",
            |_| (),
            |_| (),
            |it| {
                assert_eq!(it.count(|it| matches!(it, Moment::Cleared { .. })), 1, "{}", it.story());
                assert_eq!(it.row.end_reason.as_deref(), Some("assistant_hung_up"));
            },
        );
    }
}

#[test]
fn a_caller_who_speaks_into_the_farewell_goes_on_talking() {
    plain("hear greeting\npress 9\nhear farewell for 600ms\nsay book\nhear booked\npress 9\nhear farewell", |it| {
        assert_eq!(it.count(|it| matches!(it, Moment::ToolCalled { .. })), 2, "{}", it.story());
        assert_eq!(it.row.end_reason.as_deref(), Some("assistant_hung_up"));
    });
}

#[test]
fn when_every_place_is_taken_the_caller_is_told() {
    let folder = tempfile::tempdir().unwrap();
    virtual_time(async {
        let stage = Stage::set(&Options { calls_max: 2, ..options(&folder, Provider::Openai) }).await.unwrap();
        let ring =
            |number: &'static str| stage.telephone.ring(number, CALLED, "hear greeting\npress 9\nhear farewell".parse().unwrap());
        let (a, b, c) = tokio::join!(ring("+15550100001"), ring("+15550100003"), ring("+15550100004"));
        let streams = [a.streams, b.streams, c.streams];
        assert_eq!(streams.iter().sum::<usize>(), 2, "{streams:?}");
        let told = stage.timeline.count(|it| matches!(it, Moment::Webhook { answer, .. } if answer == "<Say> <Hangup/>"));
        assert_eq!(told, 1);
        stage.server.bridge.idle().await;
        let again = ring("+15550100005").await;
        assert_eq!(again.streams, 1, "a place is free again");
        stage.strike().await;
    });
}

#[test]
fn a_disk_that_fills_up_costs_recordings_before_calls() {
    // F14.
    let folder = tempfile::tempdir().unwrap();
    virtual_time(async {
        let stage = Stage::set(&options(&folder, Provider::Openai)).await.unwrap();
        let ring = async |free_mib: u64, recorded: usize, streams: usize| {
            stage.server.desk().disk().note(free_mib << 20);
            let outcome = stage.telephone.ring("+15550100001", CALLED, "hear greeting\nhang up".parse().unwrap()).await;
            stage.server.bridge.idle().await;
            assert_eq!(outcome.streams, streams, "{free_mib} MiB");
            let recordings = folder.path().join("recordings").join(TENANT);
            assert_eq!(std::fs::read_dir(recordings).map_or(0, Iterator::count), recorded, "{free_mib} MiB");
        };
        ring(500, 1, 1).await;
        ring(200, 1, 1).await;
        ring(10, 1, 0).await;
        ring(2000, 2, 1).await;
        stage.strike().await;
    });
}

#[test]
fn a_number_that_nobody_answers_is_said_to_be_out_of_service() {
    let folder = tempfile::tempdir().unwrap();
    virtual_time(async {
        let stage = Stage::set(&options(&folder, Provider::Openai)).await.unwrap();
        let outcome = stage.telephone.ring("+15550100001", "+15559999999", "".parse().unwrap()).await;
        assert_eq!((outcome.streams, outcome.status), (0, "completed"));
        assert_eq!(stage.timeline.count(|it| matches!(it, Moment::Webhook { answer, .. } if answer == "<Say> <Hangup/>")), 1);
        stage.strike().await;
    });
}

#[test]
fn words_spoken_before_the_assistant_is_ready_are_heard() {
    for provider in [Provider::Openai, Provider::Elevenlabs] {
        after(
            provider,
            "say ask-hours\nhear hours for 1000ms\nhang up",
            |it| it.setup = Duration::from_millis(1900),
            |_| (),
            |it| {
                let understood = it.count(|it| matches!(it, Moment::CallerUnderstood { utterance: Some("ask-hours"), .. }));
                assert_eq!((understood, it.row.frames_in_dropped), (1, 0), "{}", it.story());
            },
        );
    }
}

#[test]
fn calls_are_answered_and_resumed_while_the_database_is_away() {
    let folder = tempfile::tempdir().unwrap();
    virtual_time(async {
        let stage = Stage::set(&options(&folder, Provider::Openai)).await.unwrap();
        stage.server.store.close().await;
        let story = "hear greeting\nsay ask-hours\nhear hours for 1000ms\nlose socket\nhear resumed\npress 9\nhear farewell";
        let outcome = stage.telephone.ring("+15550100001", CALLED, story.parse().unwrap()).await;
        assert_eq!((outcome.steps, outcome.streams, outcome.status), ((7, 7), 2, "completed"));
        assert_eq!(stage.timeline.count(|it| matches!(it, Moment::Replayed { items } if *items == 3)), 1);
        stage.server.bridge.idle().await;
        assert!(stage.server.ledger.journal().undelivered() > 0);
        stage.strike().await;
        // The next process, with a database: everything is there.
        let store =
            store::Store::open_for_simulation(&format!("sqlite:{}", folder.path().join("offhook.db").display())).await.unwrap();
        let (journal, tasks) = store::Journal::open(folder.path().join("journal"), store.clone()).await.unwrap();
        let rows = store.tenant(TENANT).calls(10).await.unwrap();
        assert_eq!((rows.len(), rows[0].status.as_str(), rows[0].epoch), (1, "completed", 1));
        assert_eq!(store.tenant(TENANT).transcript(&rows[0].id).await.unwrap().len(), 5);
        drop(journal);
        tasks.finished().await;
    });
}

#[test]
fn a_session_of_the_live_service_is_replaced_like_any_other() {
    after(
        Provider::Live,
        "hear greeting\nsay ask-hours\nhear hours for 1000ms\nhear resumed\nhang up",
        |it| it.breaks_after = Some(Duration::from_millis(6500)),
        |_| (),
        |it| assert_eq!((it.outcome.streams, it.row.sessions_lost), (1, 1), "{}", it.story()),
    );
}

#[test]
fn an_order_from_outside_is_carried_out_once_and_a_recording_can_pause() {
    // S3-12: a repeated id is acknowledged as done before.
    let folder = tempfile::tempdir().unwrap();
    virtual_time(async {
        let stage = Stage::set(&options(&folder, Provider::Openai)).await.unwrap();
        let directory = stage.server.bridge.directory();
        let begun = tokio::time::Instant::now();
        let outside = async {
            let order = async |at: u64, id: &str, control: LiveControl| {
                tokio::time::sleep_until(begun + Duration::from_millis(at)).await;
                let calls = directory.live_calls();
                assert_eq!(calls.len(), 1, "at {at} ms");
                directory.control(&calls[0], id, control).await.unwrap()
            };
            assert_eq!(order(500, "a", LiveControl::Record(false)).await, Performed::Now);
            assert_eq!(order(600, "a", LiveControl::Record(false)).await, Performed::Before);
            assert_eq!(order(3000, "b", LiveControl::Record(true)).await, Performed::Now);
            // The same id again is the same order, whatever it says.
            assert_eq!(order(3100, "b", LiveControl::HangUp).await, Performed::Before);
            assert_eq!(order(9000, "c", LiveControl::HangUp).await, Performed::Now);
            assert!(matches!(
                directory.control(&CallId("nobody".into()), "d", LiveControl::HangUp).await,
                Err(NotPerformed::NotLive)
            ));
        };
        let ring = stage.telephone.ring("+15550100001", CALLED, "hear greeting".parse().unwrap());
        let (outcome, ()) = tokio::join!(ring, outside);
        assert_eq!(outcome.status, "completed");
        stage.server.bridge.idle().await;
        stage.server.ledger.journal().flush().await;
        let rows = stage.server.store.tenant(TENANT).calls(1).await.unwrap();
        assert_eq!(rows[0].end_reason.as_deref(), Some("hung_up_from_outside"));
        let recording = std::fs::read_dir(folder.path().join("recordings").join(TENANT)).unwrap().next().unwrap().unwrap();
        let samples = Reader::open(std::fs::File::open(recording.path()).unwrap(), Limits::FILE).unwrap().read_all().unwrap();
        let loudest = |from_ms: usize, to_ms: usize| samples[from_ms * 16..to_ms * 16].iter().map(|it| it.unsigned_abs()).max();
        assert!(loudest(1000, 2500).unwrap() < 200, "the greeting is being said, and not recorded: {:?}", loudest(1000, 2500));
        assert!(loudest(3200, 5000).unwrap() > 1000, "and then it is: {:?}", loudest(3200, 5000));
        stage.strike().await;
    });
}

#[test]
fn a_conversation_of_65_minutes_changes_its_session_at_a_pause() {
    // B89, C-44: sessions of the service end after 60 minutes; ours is replaced before, and the caller hears nothing of it.
    let story = format!("hear greeting\n{}press 9\nhear farewell", "say book\nhear booked\nwait 296000ms\n".repeat(13));
    let conversation =
        CallConfig { duration_max: Duration::from_secs(2 * 3600), idle_after: None, ..offhook::stage::conversation() };
    after_within(
        conversation,
        Provider::Openai,
        &story,
        |_| (),
        |_| (),
        |it| {
            assert!(it.outcome.duration > Duration::from_secs(65 * 60), "{:?}", it.outcome.duration);
            assert_eq!((it.row.sessions_rolled, it.row.sessions_lost, it.outcome.streams), (1, 0, 1));
            assert_eq!(it.count(|it| *it == Moment::SessionOpened), 2);
            assert_eq!(it.count(|it| matches!(it, Moment::SessionClosed { code: Some(1001) })), 0, "none expired");
            assert_eq!(it.lines.iter().filter(|it| it.cut).count(), 0);
            let booked = it.count(|it| matches!(it, Moment::CallerHeard { utterance: Some("booked"), .. }));
            assert_eq!(booked, 13);
            assert!(it.outcome.frames_sent - it.row.frames_in <= 5, "{} {}", it.outcome.frames_sent, it.row.frames_in);
        },
    );
}

#[test]
fn nothing_drifts_in_half_an_hour() {
    // C-57.
    let story =
        "hear greeting\nwait 1800000ms\nsay ask-hours\nhear hours for 1000ms\nsay book\nhear booked\npress 9\nhear farewell";
    plain(story, |it| {
        let seconds = it.outcome.duration.as_secs();
        assert!(seconds > 1800, "{seconds}");
        // Sent, received and recorded are one timeline, to the frame.
        assert!(it.outcome.frames_sent - it.row.frames_in <= 5, "{} sent, {} came in", it.outcome.frames_sent, it.row.frames_in);
        let recordings: Vec<_> =
            std::fs::read_dir(it.folder.join("recordings").join(TENANT)).unwrap().map(|it| it.unwrap().path()).collect();
        let file = std::fs::File::open(&recordings[0]).unwrap();
        let recorded_ms = Reader::open(file, Limits::FILE).unwrap().read_all().unwrap().len() as u64 / 16;
        assert_eq!(recorded_ms, it.row.frames_in * 20);
        assert!((it.outcome.duration.as_millis() as u64).abs_diff(recorded_ms) < 100, "{:?}, {recorded_ms}", it.outcome.duration);
        let last = it.lines.last().unwrap();
        assert!(!last.cut && last.start_ms > 1_800_000, "{}", last.start_ms);
    });
}
