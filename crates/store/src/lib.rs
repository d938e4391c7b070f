#![doc = include_str!("../README.md")]

mod entry;
mod journal;
mod segment;
mod sql;

pub use entry::{Entry, Fact, Speaker};
pub use journal::{Journal, JournalError, JournalTasks};
pub use segment::Position;
pub use sql::{CallRow, Line, MessageRow, RecordingRow, Scope, Store, StoreError, ToolCallRow, TurnRow};
