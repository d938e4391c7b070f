//! A session that is opened while the telephone rings, so that the caller is greeted at once.

use std::sync::Arc;
use std::time::Duration;

use call::{Action, Input, ItemId, Prompt, ResponseId};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::accept::Bridge;
use crate::limits;
use crate::plan::CallPlan;
use crate::session::{self, LOOK_EVERY, Opening, Session};

/// What is kept for a caller who has not come: a greeting of a minute, in μ-law bytes. Then nothing more is read.
const KEPT_BYTES_MAX: usize = 60 * 8000;
/// Longest wait for the hand-over: the task only has to notice.
const CLAIM_TIMEOUT: Duration = Duration::from_millis(200);

/// What a session said before its caller came.
pub(crate) enum Early {
    Ready { opened: bool },
    Started(ResponseId),
    Done(ResponseId),
    Audio { response: ResponseId, item: ItemId, ulaw: Vec<u8> },
    AudioDone { response: ResponseId, item: ItemId },
    Text { item: ItemId, text: String },
    Usage { input_tokens: u64, cached_tokens: u64, output_tokens: u64 },
    Tool { id: String, name: String, arguments: String },
}

impl Early {
    /// Nothing else can happen before there is a caller.
    fn of(input: Input<'_>) -> Option<Self> {
        Some(match input {
            Input::AssistantReady { opened } => Self::Ready { opened },
            Input::ResponseStarted(it) => Self::Started(it),
            Input::ResponseDone(it) => Self::Done(it),
            Input::AssistantAudio { response, item, ulaw } => Self::Audio { response, item, ulaw: ulaw.to_vec() },
            Input::AssistantAudioDone { response, item } => Self::AudioDone { response, item },
            Input::AssistantText { item, text } => Self::Text { item, text: text.to_owned() },
            Input::Usage { input_tokens, cached_tokens, output_tokens } => {
                Self::Usage { input_tokens, cached_tokens, output_tokens }
            }
            Input::ToolCalled { id, name, arguments } => {
                Self::Tool { id: id.to_owned(), name: name.to_owned(), arguments: arguments.to_owned() }
            }
            _ => return None,
        })
    }

    /// Roughly what it occupies.
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Audio { ulaw, .. } => ulaw.len(),
                Self::Text { text, .. } => text.len(),
                Self::Tool { id, name, arguments } => id.len() + name.len() + arguments.len(),
                _ => 0,
            }
    }

    /// As it would have been told to the call.
    pub(crate) fn input(&self) -> Input<'_> {
        match self {
            Self::Ready { opened } => Input::AssistantReady { opened: *opened },
            Self::Started(it) => Input::ResponseStarted(*it),
            Self::Done(it) => Input::ResponseDone(*it),
            Self::Audio { response, item, ulaw } => Input::AssistantAudio { response: *response, item: *item, ulaw },
            Self::AudioDone { response, item } => Input::AssistantAudioDone { response: *response, item: *item },
            Self::Text { item, text } => Input::AssistantText { item: *item, text },
            Self::Usage { input_tokens, cached_tokens, output_tokens } => {
                Input::Usage { input_tokens: *input_tokens, cached_tokens: *cached_tokens, output_tokens: *output_tokens }
            }
            Self::Tool { id, name, arguments } => Input::ToolCalled { id, name, arguments },
        }
    }
}

/// Where the session is when its caller comes.
pub(crate) enum Prepared {
    /// Still being opened.
    Opening(Opening),
    /// Open, and what it said.
    Open(Box<Session>, Vec<Early>),
}

/// A session under way; dropped, it is gone.
pub(crate) struct Ringing {
    claim: oneshot::Sender<()>,
    task: AbortOnDropHandle<Option<Prepared>>,
}

impl Ringing {
    /// Begins to open the first session of a plan.
    pub(crate) fn begin(bridge: Arc<Bridge>, plan: &CallPlan) -> Self {
        let opening = session::open(bridge, plan, 0, 0, plan.history.clone());
        let (claim, claimed) = oneshot::channel();
        let task = tokio::spawn(prepare(opening, plan.config.opening.clone(), claimed));
        Self { claim, task: AbortOnDropHandle::new(task) }
    }

    /// Hands the session over; `None` when it failed or was released: the caller's own attempt will show why.
    pub(crate) async fn claim(self) -> Option<Prepared> {
        let _ = self.claim.send(());
        timeout(CLAIM_TIMEOUT, self.task).await.ok()?.ok()?
    }
}

async fn prepare(mut opening: Opening, prompt: Prompt, mut claimed: oneshot::Receiver<()>) -> Option<Prepared> {
    let until = Instant::now() + limits::PREPARED_LIFE;
    let mut session = tokio::select! {
        biased;
        _ = &mut claimed => return Some(Prepared::Opening(opening)),
        opened = &mut opening => opened.inspect_err(|error| tracing::warn!(%error, "no session while it rings")).ok()?,
    };
    let (mut early, mut kept) = (Vec::new(), 0);
    session.begin().ok()?;
    loop {
        let room = kept < KEPT_BYTES_MAX;
        tokio::select! {
            biased;
            _ = &mut claimed => return Some(Prepared::Open(session, early)),
            () = sleep_until(until) => {
                tracing::info!("nobody came for a session: it is released");
                session.close().await;
                return None;
            }
            read = session.next(), if room => {
                read.map_err(|lost| session.lost(&lost)).ok()?;
                let (mut came, now) = (Vec::new(), Instant::now());
                while session.take(now, &mut |input| came.extend(Early::of(input))).ok()? {
                    for it in came.drain(..) {
                        kept += it.bytes();
                        // The opening is asked for at once: it will be there before the caller is.
                        if let Early::Ready { .. } = it {
                            session.perform(&Action::RequestResponse(prompt.clone())).ok()?;
                            early.push(Early::Ready { opened: true });
                        } else {
                            early.push(it);
                        }
                    }
                }
            }
            () = tokio::time::sleep(LOOK_EVERY) => {
                if session.is_dead(Instant::now()) {
                    return None;
                }
            }
        }
    }
}
