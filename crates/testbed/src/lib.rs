#![doc = include_str!("../README.md")]

mod postgres;
mod s3;

pub use postgres::Postgres;
pub use s3::S3;
