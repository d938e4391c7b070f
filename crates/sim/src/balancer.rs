//! A load balancer in front of several servers: whoever listens gets the connection.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Hands each connection to any server, however the connections of a call follow each other; one that refuses is passed over,
/// as a health check would.
#[derive(Clone, Debug)]
pub struct Balancer {
    pub servers: Vec<SocketAddr>,
}

impl Balancer {
    /// Balances until `stop`. A connection without any server is closed.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let servers = Arc::new(self.servers);
        let mut dice = fastrand::Rng::with_seed(6);
        loop {
            let accepted = tokio::select! {
                it = listener.accept() => it,
                () = stop.cancelled() => return,
            };
            let Ok((mut client, _)) = accepted else { continue };
            let (servers, first, stop) = (servers.clone(), dice.usize(..servers.len()), stop.clone());
            tokio::spawn(async move {
                let _ = client.set_nodelay(true);
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
