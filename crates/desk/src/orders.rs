//! Orders to live calls, whichever server has them.

use std::time::Duration;

use bridge::{CallId, Directory, LiveControl, NotPerformed, Performed};
use store::{Store, StoreError, Topic};
use tokio::time::Instant;

use crate::background::DEAD_AFTER;

/// Longest wait for another server, and the pause between two looks.
const WAIT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);
/// What another server notes when it has carried out an order.
pub(crate) const PERFORMED: &str = "performed";

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error("the tenant has no call {0}")]
    Unknown(String),
    #[error("the call is not live")]
    NotLive,
    #[error("the server that has the call, {0}, does not answer: it may still carry the order out, once")]
    NoAnswer(String),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Does something to a call of a tenant: here, if this process has it (`directory`), else by the server that does. The same id
/// again is the same order.
///
/// # Errors
/// [`OrderError`]
pub async fn order(
    store: &Store,
    directory: Option<&Directory>,
    tenant: &str,
    call: &CallId,
    id: &str,
    control: LiveControl,
) -> Result<Performed, OrderError> {
    let scope = store.tenant(tenant);
    let row = scope.call(&call.0).await?.ok_or_else(|| OrderError::Unknown(call.to_string()))?;
    if let Some(directory) = directory {
        match directory.control(call, id, control.clone()).await {
            Err(NotPerformed::NotLive) => (),
            Err(error @ NotPerformed::Busy) => return Err(OrderError::Refused(error.to_string())),
            Ok(performed) => return Ok(performed),
        }
    }
    let nodes = store.nodes().await?;
    let node = nodes.iter().find(|it| it.has(&row.id, DEAD_AFTER)).ok_or(OrderError::NotLive)?;
    let body = serde_json::to_string(&control).map_err(|error| OrderError::Refused(error.to_string()))?;
    scope.command(id, &call.0, &node.id, &body, 2 * WAIT).await?;
    let until = Instant::now() + WAIT;
    let mut hints = store.hints(Topic::Orders);
    while Instant::now() < until {
        match scope.outcome(id).await?.as_deref() {
            Some(PERFORMED) => return Ok(Performed::Now),
            Some(problem) => return Err(OrderError::Refused(problem.to_owned())),
            None => hints.wait(LOOK).await,
        }
    }
    Err(OrderError::NoAnswer(node.id.clone()))
}
