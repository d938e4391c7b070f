//! What a new session must know of the conversation so far.

use std::collections::VecDeque;

use crate::limits;
use crate::plan::HistoryItem;

/// The newest lines in the order in which they were said, whenever their words became known.
#[derive(Clone, Debug, Default)]
pub struct History(VecDeque<(u64, HistoryItem)>);

impl History {
    /// Begins with what was said in earlier streams.
    pub fn new(earlier: impl IntoIterator<Item = HistoryItem>) -> Self {
        let mut history = Self::default();
        earlier.into_iter().for_each(|it| history.insert(0, it));
        history
    }

    /// The caller's words; `start_ms` is since the stream's start.
    pub fn caller_said(&mut self, start_ms: u64, text: &str) {
        self.insert(start_ms, HistoryItem::Caller(text.to_owned()));
    }

    /// What was heard of the assistant's.
    pub fn assistant_said(&mut self, start_ms: u64, text: &str) {
        self.insert(start_ms, HistoryItem::Assistant(text.to_owned()));
    }

    /// Something happened that the assistant must know.
    pub fn note(&mut self, text: String) {
        let last = self.0.back().map_or(0, |it| it.0);
        self.insert(last, HistoryItem::Note(text));
    }

    /// A tool was called; its answer is not known yet.
    pub fn tool_called(&mut self, id: &str, name: &str, arguments: &str) {
        let last = self.0.back().map_or(0, |it| it.0);
        let call = HistoryItem::Tool { id: id.into(), name: name.into(), arguments: arguments.into(), output: None };
        self.insert(last, call);
    }

    /// It answered.
    pub fn tool_finished(&mut self, id: &str, answer: &str) {
        for (_, item) in &mut self.0 {
            if let HistoryItem::Tool { id: known, output, .. } = item
                && known == id
            {
                *output = Some(answer.to_owned());
            }
        }
    }

    /// Oldest first.
    pub fn items(&self) -> Vec<HistoryItem> {
        self.0.iter().map(|it| it.1.clone()).collect()
    }

    fn insert(&mut self, at: u64, item: HistoryItem) {
        if self.0.len() == limits::HISTORY_MAX {
            self.0.pop_front();
        }
        let place = self.0.iter().rposition(|it| it.0 <= at).map_or(0, |it| it + 1);
        self.0.insert(place, (at, item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_words_find_their_place() {
        // B58, C-76.
        let mut history = History::new([HistoryItem::Caller("before".into())]);
        history.assistant_said(100, "hello");
        history.caller_said(5000, "second");
        history.tool_called("t", "look", "{}");
        history.caller_said(2000, "first");
        history.tool_finished("t", "found");
        let tool =
            HistoryItem::Tool { id: "t".into(), name: "look".into(), arguments: "{}".into(), output: Some("found".into()) };
        let expected = [
            HistoryItem::Caller("before".into()),
            HistoryItem::Assistant("hello".into()),
            HistoryItem::Caller("first".into()),
            HistoryItem::Caller("second".into()),
            tool,
        ];
        assert!(history.items() == expected, "{:?}", history.items());
        for n in 0..100 {
            history.caller_said(10_000 + n, "more");
        }
        assert_eq!(history.items().len(), limits::HISTORY_MAX);
    }
}
