//! The accept loop: any listener, bounded connections, upgrades, a graceful end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// HTTP connections at a time; media sockets leave their place when they are upgraded.
const CONNECTIONS_MAX: usize = 8192;
/// A request's head must be complete by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Serves `router` on `listener` until `stop`; then finishes requests in progress. Upgraded connections live on in the
/// bridge.
pub async fn serve<L: Listener>(mut listener: L, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let io = tokio::select! {
            (io, _) = listener.accept() => io,
            () = stop.cancelled() => break,
        };
        let (service, stop) = (TowerToHyperService::new(router.clone()), stop.clone());
        connections.spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
            let connection = http.serve_connection(TokioIo::new(io), service).with_upgrades();
            tokio::pin!(connection);
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = served {
                tracing::debug!(%error, "a connection broke off");
            }
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}
