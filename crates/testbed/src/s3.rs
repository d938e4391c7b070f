//! A server that speaks S3.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

const ACCESS_KEY: &str = "testbed";
const SECRET_KEY: &str = "testbed-secret";

/// An S3 server in this process, with its buckets in a temporary folder. Dropped, it is gone; signatures are checked.
#[derive(Debug)]
pub struct S3 {
    address: SocketAddr,
    folder: tempfile::TempDir,
    serving: JoinHandle<()>,
}

impl S3 {
    /// Starts a server with one bucket.
    ///
    /// # Panics
    /// When there is no port or no folder.
    pub async fn start(bucket: &str) -> Self {
        let folder = tempfile::tempdir().expect("there is a temporary folder");
        std::fs::create_dir(folder.path().join(bucket)).expect("the folder is ours");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a port");
        let address = listener.local_addr().expect("it is bound");
        let serving = serve(listener, folder.path());
        Self { address, folder, serving }
    }

    /// How it is reached, as the `AWS_…` variables of an environment.
    pub fn options(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Where its buckets lie.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Ends all connections and refuses new ones, until [`go_on`](Self::go_on).
    pub fn stop(&self) {
        self.serving.abort();
    }

    /// Serves again, at the same address and with the same buckets.
    ///
    /// # Panics
    /// When somebody else took the port.
    pub async fn go_on(&mut self) {
        self.stop();
        let listener = TcpListener::bind(self.address).await.expect("the port is free");
        self.serving = serve(listener, self.folder.path());
    }
}

/// Serves until it is aborted, which ends every connection.
fn serve(listener: TcpListener, folder: &Path) -> JoinHandle<()> {
    let files = s3s_fs::FileSystem::new(folder).expect("the folder is there");
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = service.build();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        let http = Builder::new(TokioExecutor::new());
        while let Ok((socket, _)) = listener.accept().await {
            while connections.try_join_next().is_some() {}
            let connection = http.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
            connections.spawn(async move {
                let _ = connection.await;
            });
        }
    })
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
