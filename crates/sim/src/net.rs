//! The network between everybody: TCP on loopback, or byte pipes in memory for virtual time.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Bytes in flight on a pipe: what a socket buffer holds.
const PIPE_BYTES: usize = 64 * 1024;

/// A connected byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Any byte stream.
pub type BoxIo = Box<dyn Io>;

/// Who listens where. Cheap to clone.
#[derive(Clone)]
pub enum Network {
    /// TCP. Only loopback addresses are connected to.
    Loopback,
    /// Pipes; addresses are names for them.
    Memory(Arc<Mutex<Pipes>>),
}

/// Listeners by port.
#[derive(Default)]
pub struct Pipes {
    listening: HashMap<u16, mpsc::UnboundedSender<DuplexStream>>,
    next_port: u16,
}

/// Takes connections.
pub enum Listener {
    Tcp(TcpListener),
    Memory { address: SocketAddr, connections: mpsc::UnboundedReceiver<DuplexStream> },
}

impl Network {
    /// A fresh network in memory.
    pub fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// Connects to a listener of this network.
    ///
    /// # Errors
    /// `ConnectionRefused` when nobody listens, `PermissionDenied` for an address off this machine.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<BoxIo> {
        let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|it| it.is_loopback());
        if !loopback {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("the simulator does not leave this machine for {host}"),
            ));
        }
        match self {
            Self::Loopback => {
                let socket = TcpStream::connect((host, port)).await?;
                socket.set_nodelay(true)?;
                Ok(Box::new(socket))
            }
            Self::Memory(pipes) => {
                let (near, far) = duplex(PIPE_BYTES);
                let pipes = pipes.lock().unwrap_or_else(PoisonError::into_inner);
                let listener = pipes.listening.get(&port).ok_or(io::ErrorKind::ConnectionRefused)?;
                listener.send(far).map_err(|_| io::ErrorKind::ConnectionRefused)?;
                Ok(Box::new(near))
            }
        }
    }

    /// Listens on a free port of loopback.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn listen(&self) -> io::Result<(Listener, SocketAddr)> {
        match self {
            Self::Loopback => {
                let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
                let address = listener.local_addr()?;
                Ok((Listener::Tcp(listener), address))
            }
            Self::Memory(pipes) => {
                let mut pipes = pipes.lock().unwrap_or_else(PoisonError::into_inner);
                pipes.next_port += 1;
                let address = SocketAddr::from(([127, 0, 0, 1], pipes.next_port));
                let (sender, connections) = mpsc::unbounded_channel();
                pipes.listening.insert(address.port(), sender);
                Ok((Listener::Memory { address, connections }, address))
            }
        }
    }
}

impl axum::serve::Listener for Listener {
    type Io = BoxIo;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoxIo, SocketAddr) {
        match self {
            Self::Tcp(listener) => {
                let (socket, address) = axum::serve::Listener::accept(listener).await;
                let _ = socket.set_nodelay(true);
                (Box::new(socket), address)
            }
            Self::Memory { address, connections } => match connections.recv().await {
                Some(pipe) => (Box::new(pipe), *address),
                None => std::future::pending().await,
            },
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Memory { address, .. } => Ok(*address),
        }
    }
}
