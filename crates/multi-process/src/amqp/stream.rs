//! Gives the connection its name on the way to the broker.
//!
//! Particular to processes: the library (amiquip) lets us set one property of a connection,
//! `information`, but operators and tools look for `connection_name`.
//! The stream is ours, so the property is renamed in the one frame that carries it.

use std::io::{self, Read, Write};

use amiquip::IoStream;
use contract::start_ok;
use mio_06::{Evented, Poll, PollOpt, Ready, Token, net::TcpStream};

/// A TCP stream that names the connection.
pub struct NamingStream {
    inner: TcpStream,
    /// Taken when it has been sent.
    name: Option<String>,
}

impl NamingStream {
    /// Will name the connection on `inner`.
    #[must_use]
    pub const fn new(inner: TcpStream, name: String) -> Self {
        Self {
            inner,
            name: Some(name),
        }
    }
}

impl Read for NamingStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl Write for NamingStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(renamed) = self
            .name
            .as_deref()
            .and_then(|name| start_ok::rename(bytes, name))
        else {
            return self.inner.write(bytes);
        };
        // The broker has just spoken and the socket's buffer is empty: it takes a frame of some
        // hundred bytes as a whole. Should it not, the attempt fails and the next one follows.
        if self.inner.write(&renamed)? < renamed.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.name = None;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Evented for NamingStream {
    fn register(
        &self,
        poll: &Poll,
        token: Token,
        interest: Ready,
        options: PollOpt,
    ) -> io::Result<()> {
        self.inner.register(poll, token, interest, options)
    }

    fn reregister(
        &self,
        poll: &Poll,
        token: Token,
        interest: Ready,
        options: PollOpt,
    ) -> io::Result<()> {
        self.inner.reregister(poll, token, interest, options)
    }

    fn deregister(&self, poll: &Poll) -> io::Result<()> {
        self.inner.deregister(poll)
    }
}

impl IoStream for NamingStream {}
