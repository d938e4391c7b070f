//! Tool calls: each id at most once, none waited for without end.

use std::time::Duration;

/// Ids remembered; a call with more is not a conversation.
const CALLS_MAX: usize = 256;

#[derive(Clone, Debug, Default)]
pub(crate) struct ToolLedger {
    calls: Vec<ToolCall>,
}

#[derive(Clone, Debug)]
struct ToolCall {
    id: String,
    name: String,
    /// The session that asked for it: another one knows nothing of it.
    session: u32,
    /// `None` once answered.
    due: Option<Duration>,
}

/// A call that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) session: u32,
}

impl ToolLedger {
    /// Notes a new call; `false` when this id is known already or there are too many.
    pub(crate) fn begin(&mut self, id: &str, name: &str, session: u32, due: Duration) -> bool {
        let fresh = self.calls.len() < CALLS_MAX && !self.calls.iter().any(|it| it.id == id);
        if fresh {
            self.calls.push(ToolCall { id: id.to_owned(), name: name.to_owned(), session, due: Some(due) });
        }
        fresh
    }

    /// Calls of this conversation so far.
    pub(crate) fn count(&self) -> usize {
        self.calls.len()
    }

    /// Notes an answer; `None` when none was due for this id.
    pub(crate) fn finish(&mut self, id: &str) -> Option<Answered> {
        let call = self.calls.iter_mut().find(|it| it.id == id)?;
        call.due.take()?;
        Some(call.answered())
    }

    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.calls.iter().filter_map(|it| it.due).min()
    }

    /// Removes and returns a call whose time is over.
    pub(crate) fn overdue(&mut self, now: Duration) -> Option<Answered> {
        let call = self.calls.iter_mut().find(|it| it.due.is_some_and(|due| due <= now))?;
        call.due = None;
        Some(call.answered())
    }
}

impl ToolCall {
    fn answered(&self) -> Answered {
        Answered { id: self.id.clone(), name: self.name.clone(), session: self.session }
    }
}
