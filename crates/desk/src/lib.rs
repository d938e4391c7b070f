#![doc = include_str!("../README.md")]

mod background;
mod callers;
mod configuration;
mod courier;
mod disk;
mod files;
mod ladder;
mod ledger;
mod next;
mod orders;
mod outbound;
mod phrases;
mod reconcile;
mod routes;
#[cfg(test)]
mod testing;
mod tools;

pub use background::Background;
pub use callers::Callers;
pub use configuration::{
    Answered, Assistant, Configuration, DOCUMENT_BYTES_MAX, Document, Hours, Number, Numbers, Published, RouteKind, Templates,
};
pub use courier::check_endpoint;
pub use disk::Disk;
pub use files::{Download, Files};
pub use ladder::{Ladder, Person, Rung, Schedule, Sentence, Step, Who};
pub use ledger::Ledger;
pub use next::{Desk, Metrics, Review, Reviewed, TryElsewhere};
pub use orders::{OrderError, order};
pub use outbound::{
    Caller, CancelError, MINUTE_PRICE, Machines, NotCalled, Order, OrderRefused, Outbound, OutboundDefaults, Policy,
};
pub use phrases::Language;
pub use routes::{PublicUrl, Route, Settings};
pub use tools::{BuiltIns, HttpTool, McpServer, Message, Method, Schema, Toolbox, UnusableSchema, UnusableTool};
