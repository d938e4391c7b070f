#![doc = include_str!("../README.md")]

mod business;
mod calls;
mod clones;
mod configuration;
mod db;
mod delivery;
mod entry;
mod feed;
mod hints;
mod jobs;
mod journal;
mod migrate;
mod nodes;
mod objects;
mod outbox;
mod seal;
mod segment;
mod store;

pub use business::{BookingRow, CustomerRow, TicketRow, VoiceSessionChange, VoiceSessionRow};
pub use calls::{CallRow, Line, MessageRow, OpenCall, RecordingRow, ToolCallRow, TurnRow};
pub use clones::{CloneOutcome, CloneRow, CloneStatus};
pub use configuration::{AuditRow, ConfigurationRow, NewConfiguration, PriceRow, PublishError};
pub use db::StoreError;
pub use delivery::recording_kept_by;
pub use entry::{Entry, Fact, Speaker};
pub use feed::Feed;
pub use hints::{Hints, Topic};
pub use jobs::{BadSchedule, Failure, Handler, Intent, JobRow, NewJob, Schedule, Work, Workers};
pub use journal::{Journal, JournalError, JournalTasks};
pub use migrate::NEWEST;
pub use nodes::{CommandRow, Heartbeat, NodeRow};
pub use objects::{NewObject, ObjectError, ObjectRow, Objects};
pub use outbox::{DeliveryRow, EndpointRow, Parcel};
pub use seal::{KEY_BYTES, SealError, Sealer};
pub use segment::{Position, read_journal};
pub use store::{Scope, Store};
