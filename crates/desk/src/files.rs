//! Files that people and programs may download for a while.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use jiff::Timestamp;
use store::{ObjectError, Objects};

/// Where files are found by their tickets.
#[derive(Clone, Debug)]
pub struct Files(Option<Objects>);

/// A file on its way out.
pub struct Download {
    pub media_type: String,
    pub size_bytes: u64,
    /// Pieces, each one checked; an error ends it.
    pub content: BoxStream<'static, Result<Bytes, ObjectError>>,
}

impl Files {
    /// Files of a place; `None`: there are none.
    pub fn new(objects: Option<Objects>) -> Self {
        Self(objects)
    }

    /// A ticket for a tenant's file that is good for a while; `None`: there is no such file.
    ///
    /// # Errors
    /// When that cannot be looked up.
    pub async fn ticket(&self, tenant: &str, id: &str, life: Duration) -> Result<Option<String>, ObjectError> {
        let Some(objects) = &self.0 else { return Ok(None) };
        match objects.find(tenant, id).await {
            Ok(it) => Ok(Some(objects.ticket(&it, Timestamp::now().as_second(), life))),
            Err(ObjectError::Unknown) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The file that a ticket names; `None` for any other word, and when its time is over.
    ///
    /// # Errors
    /// When it is known and cannot be read.
    pub async fn download(&self, ticket: &str) -> Result<Option<Download>, ObjectError> {
        let Some(objects) = &self.0 else { return Ok(None) };
        let it = match objects.redeem(ticket, Timestamp::now().as_second()).await {
            Ok(it) => it,
            Err(ObjectError::Unknown) => return Ok(None),
            Err(error) => return Err(error),
        };
        let content = objects.read(&it).await?.boxed();
        Ok(Some(Download { media_type: it.media_type, size_bytes: it.size_bytes, content }))
    }
}
