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
    /// `None` once answered.
    due: Option<Duration>,
}

impl ToolLedger {
    /// Notes a new call; `false` when this id is known already or there are too many.
    pub(crate) fn begin(&mut self, id: &str, due: Duration) -> bool {
        let fresh = self.calls.len() < CALLS_MAX && !self.calls.iter().any(|it| it.id == id);
        if fresh {
            self.calls.push(ToolCall { id: id.to_owned(), due: Some(due) });
        }
        fresh
    }

    /// Notes an answer; `false` when none was due for this id.
    pub(crate) fn finish(&mut self, id: &str) -> bool {
        self.calls.iter_mut().find(|it| it.id == id).is_some_and(|it| it.due.take().is_some())
    }

    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.calls.iter().filter_map(|it| it.due).min()
    }

    /// Removes and returns a call whose time is over.
    pub(crate) fn overdue(&mut self, now: Duration) -> Option<String> {
        let call = self.calls.iter_mut().find(|it| it.due.is_some_and(|due| due <= now))?;
        call.due = None;
        Some(call.id.clone())
    }
}
