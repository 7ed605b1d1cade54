//! Gives the connection its name on the way to the broker.
//!
//! Particular to threads: the library (amiquip) lets us set one property of a connection,
//! `information`, but operators and tools look for `connection_name`.
//! The stream is ours, so the property is renamed in the one frame that carries it.

use std::io::{self, Read, Write};

use amiquip::IoStream;
use mio_06::{Evented, Poll, PollOpt, Ready, Token, net::TcpStream};

/// Value of `information` by which the property is found; never reaches the broker.
pub const PLACEHOLDER: &str = "connection-name-goes-here";
/// Length of a frame's type, channel and size, which precede its payload.
const FRAME_HEAD: usize = 7;
/// Length of the class and method numbers, which precede the table of properties.
const METHOD_HEAD: usize = 4;

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
        let Some(renamed) = self.name.as_deref().and_then(|name| rename(bytes, name)) else {
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

/// Replaces the property in a `connection.start-ok` frame; `None` if `frame` has no such property.
///
/// Both lengths around it, the frame's and the table's, follow the change.
fn rename(frame: &[u8], name: &str) -> Option<Vec<u8>> {
    let old = property("information", PLACEHOLDER);
    let new = property("connection_name", name);
    let at = frame.windows(old.len()).position(|window| window == old)?;
    let mut renamed = [&frame[..at], &new, &frame[at + old.len()..]].concat();
    for length_at in [FRAME_HEAD - 4, FRAME_HEAD + METHOD_HEAD] {
        let field = renamed.get_mut(length_at..length_at + 4)?;
        let length = u32::from_be_bytes(field.try_into().ok()?);
        let length = length + u32::try_from(new.len()).ok()? - u32::try_from(old.len()).ok()?;
        field.copy_from_slice(&length.to_be_bytes());
    }
    Some(renamed)
}

/// A property in an AMQP table: short string, `S`, long string.
fn property(key: &str, value: &str) -> Vec<u8> {
    let key_length = u8::try_from(key.len()).expect("our keys are short");
    let value_length = u32::try_from(value.len()).expect("a name fits into an argument");
    let mut bytes = vec![key_length];
    bytes.extend(key.as_bytes());
    bytes.push(b'S');
    bytes.extend(value_length.to_be_bytes());
    bytes.extend(value.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(table: &[u8]) -> Vec<u8> {
        let table_length = u32::try_from(table.len()).expect("short");
        let payload = [&[0, 10, 0, 11], &table_length.to_be_bytes()[..], table].concat();
        let length = u32::try_from(payload.len()).expect("short");
        [&[1, 0, 0], &length.to_be_bytes()[..], &payload, &[0xce]].concat()
    }

    #[test]
    fn the_property_is_renamed_and_the_lengths_follow() {
        let (before, behind) = (property("a", "b"), property("z", "y"));
        let with = |middle: Vec<u8>| frame(&[&before[..], &middle, &behind].concat());
        let old = with(property("information", PLACEHOLDER));
        let new = with(property("connection_name", "multi-thread-x-consumer"));
        assert_eq!(rename(&old, "multi-thread-x-consumer"), Some(new));
    }

    #[test]
    fn other_frames_pass_as_they_are() {
        assert_eq!(rename(b"AMQP\0\0\x09\x01", "x"), None);
        assert_eq!(rename(&frame(&property("a", "b")), "x"), None);
    }
}
