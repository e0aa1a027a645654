//! The filter on a connection: a stream that lapin reads through, above TLS where there is TLS.

use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use lapin::AsyncTcpStream;

use super::{Filter, FrameMax};

type Plain = <Tokio as Reactor>::TcpStream;

/// The runtime that lapin is given: tokio, with filtered streams.
pub(in crate::broker::amqp) type Filtering = RuntimeParts<Tokio, Filtered>;

/// Tokio's reactor, whose connections are filtered.
#[derive(Debug, Clone)]
pub(in crate::broker::amqp) struct Filtered(Tokio);

/// The runtime of now, for a connection.
pub(in crate::broker::amqp) fn runtime() -> Runtime<Filtering> {
    Runtime::new(RuntimeParts::new(Tokio::current(), Filtered(Tokio::current())))
}

impl Reactor for Filtered {
    type TcpStream = FilteredStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    // lapin registers nothing, and the bound by which another's sockets are named is not for others
    // to name.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<FilteredStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async { Ok(FilteredStream::new(AsyncTcpStream::Plain(connecting.await?), FrameMax::default())) }
    }
}

/// A connection whose reads are filtered.
pub(in crate::broker::amqp) struct FilteredStream {
    inner: AsyncTcpStream<Plain>,
    filter: Filter,
}

impl FilteredStream {
    pub(in crate::broker::amqp) fn new(inner: AsyncTcpStream<Plain>, frame_max: FrameMax) -> Self {
        Self { inner, filter: Filter::new(frame_max) }
    }
}

impl AsyncRead for FilteredStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self { inner, filter } = self.get_mut();
        filter.read(buffer, |buffer| Pin::new(&mut *inner).poll_read(context, buffer))
    }
}

impl AsyncWrite for FilteredStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(context)
    }
}
