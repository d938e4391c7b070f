#![doc = include_str!("../README.md")]

mod cluster;
pub mod faults;
pub mod load;
mod report;

pub use cluster::Cluster;
pub use report::{Goal, Measure, Report};
