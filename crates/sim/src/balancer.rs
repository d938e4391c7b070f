//! A load balancer in front of several servers: whoever listens gets the connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Hands each connection to the next server in turn; one that refuses is passed over, as a health check would.
#[derive(Clone, Debug)]
pub struct Balancer {
    pub servers: Vec<SocketAddr>,
}

impl Balancer {
    /// Balances until `stop`. A connection without any server is closed.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let (servers, turn) = (Arc::new(self.servers), Arc::new(AtomicUsize::new(0)));
        loop {
            let accepted = tokio::select! {
                it = listener.accept() => it,
                () = stop.cancelled() => return,
            };
            let Ok((mut client, _)) = accepted else { continue };
            let (servers, turn, stop) = (servers.clone(), turn.clone(), stop.clone());
            tokio::spawn(async move {
                let _ = client.set_nodelay(true);
                let first = turn.fetch_add(1, Ordering::Relaxed);
                for index in 0..servers.len() {
                    let Ok(mut server) = TcpStream::connect(servers[(first + index) % servers.len()]).await else { continue };
                    let _ = server.set_nodelay(true);
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => (),
                        () = stop.cancelled() => (),
                    }
                    return;
                }
            });
        }
    }
}
