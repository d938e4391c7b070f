#![doc = include_str!("../README.md")]

mod ledger;
mod next;
mod phrases;
mod routes;
mod tools;

pub use ledger::Ledger;
pub use next::{Desk, Metrics, TryElsewhere};
pub use phrases::Language;
pub use routes::{PublicUrl, Route, Settings};
pub use tools::{BuiltIns, HttpTool, McpServer, Message, Method, Schema, Toolbox, UnusableSchema, UnusableTool};
