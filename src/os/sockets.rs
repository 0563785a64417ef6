//! What connections are made of: the machine's own TCP, with its timers and tasks.
//!
//! The transport between members and the HTTP interface are written against this trait, so that a
//! simulation can give them connections that break in ways which no test machine shows.

use std::fmt;
use std::future::Future;
use std::io;
pub use std::net::IpAddr;
use std::time::Duration;

use openraft_rt::AsyncRuntime;
use openraft_rt_tokio::TokioRuntime;
use rustix::net::sockopt::set_tcp_thin_linear_timeouts;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// Makes connections, and takes them.
pub trait Sockets: Clone + fmt::Debug + Send + Sync + 'static {
    /// The tasks that serve the connections, and their timers.
    type Rt: AsyncRuntime + Send + Sync;
    /// One end of a connection.
    type Stream: Socket;
    /// A port at which somebody listens.
    type Listener: Send + Sync + 'static;

    /// Connects to whoever listens at `address`.
    fn connect(&self, address: &str) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The next connection, and where it comes from.
    fn accept(
        listener: &Self::Listener,
    ) -> impl Future<Output = io::Result<(Self::Stream, IpAddr)>> + Send;
}

/// One end of a connection. What is written to it goes out at once.
pub trait Socket: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin + 'static {
    /// This machine's address on the connection.
    fn own_address(&self) -> io::Result<IpAddr>;

    /// The other machine's.
    fn other_address(&self) -> io::Result<IpAddr>;

    /// Looks at what has arrived, and leaves it there. Nothing is the end of the stream.
    fn peek(&self, into: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;
}

/// The operating system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Sockets for Tcp {
    type Rt = TokioRuntime;
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        be_prompt(&stream)?;
        Ok(stream)
    }

    async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, IpAddr)> {
        let (stream, from) = listener.accept().await?;
        // A connection that has ended already is no trouble of the listener's.
        let _ = be_prompt(&stream);
        Ok((stream, from.ip()))
    }
}

/// What is written goes out at once. What was lost is sent again every fifth of a second or so, and
/// not after twice as long each time: little is under way here, and a lease depends on it.
fn be_prompt(stream: &TcpStream) -> io::Result<()> {
    // A kernel that has not heard of it sends as ever.
    let _ = set_tcp_thin_linear_timeouts(stream, true);
    stream.set_nodelay(true)
}

impl Socket for TcpStream {
    fn own_address(&self) -> io::Result<IpAddr> {
        Ok(self.local_addr()?.ip())
    }

    fn other_address(&self) -> io::Result<IpAddr> {
        Ok(self.peer_addr()?.ip())
    }

    async fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        TcpStream::peek(self, into).await
    }
}

/// What comes of `work`, unless it takes longer than `limit`.
pub(super) async fn within<Rt: AsyncRuntime, T: Send>(
    limit: Duration,
    work: impl Future<Output = T> + Send,
) -> io::Result<T> {
    Rt::timeout(limit, work).await.map_err(|_| io::ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::tcp_thin_linear_timeouts;

    use super::*;

    #[tokio::test]
    async fn both_ends_send_at_once_and_send_again_without_waiting_longer_each_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (called, taken) = tokio::join!(Tcp.connect(&address), Tcp::accept(&listener));
        for end in [called.unwrap(), taken.unwrap().0] {
            assert!(end.nodelay().unwrap());
            assert!(tcp_thin_linear_timeouts(&end).unwrap());
        }
    }
}
