//! The server and its commands. `main` reads arguments, environment and signals; everything else is here, so that
//! tests can run it.

pub mod capacity;
pub mod config;
pub mod convert;
pub mod demo;
pub mod doctor;
pub mod scenario;
pub mod server;
pub mod stage;
pub mod verify;
