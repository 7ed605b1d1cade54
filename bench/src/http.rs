//! HTTP/1.1 from the client's side: a response parser without input or output, and a blocking
//! client that sends exactly the bytes it is told to.

use std::{
    io::{self, Read, Write},
    mem::MaybeUninit,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// Most headers of a response.
const MAX_HEADERS: usize = 64;
/// Bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;

/// A failed exchange.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody accepts connections, or the socket failed.
    #[error("the HTTP connection to {address} failed")]
    Socket {
        /// Address of the peer.
        address: SocketAddr,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The response did not come in time.
    #[error("no complete response within {0:?}")]
    TimedOut(Duration),
    /// The peer closed the connection before the response was complete.
    #[error("the peer closed the connection after {0} bytes of the response")]
    Closed(usize),
    /// The bytes are no HTTP/1.1 response.
    #[error("not an HTTP/1.1 response: {0}")]
    Malformed(String),
}

/// How the end of a response's body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`, in bytes.
    Length(usize),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection's end.
    UntilClose,
}

/// Status line and headers of a response, as far as the framing needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code.
    pub status: u16,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
    /// Length of status line, headers and empty line in bytes.
    pub head_bytes: usize,
}

/// Parses the head at the start of `bytes`; `None` if it is not complete yet.
///
/// The body of the answer to a `HEAD` request is empty whatever the framing says.
///
/// # Errors
/// [`Error::Malformed`].
pub fn parse_response_head(bytes: &[u8]) -> Result<Option<ResponseHead>, Error> {
    // Not filled beforehand: that would be 2 KB written for each answer.
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut headers,
    );
    let head_bytes = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(Error::Malformed(error.to_string())),
    };
    let status = response.code.expect("complete");
    let mut head = ResponseHead {
        status,
        framing: Framing::UntilClose,
        keep_alive: response.version == Some(1),
        head_bytes,
    };
    for header in response.headers.iter() {
        note_header(&mut head, header)?;
    }
    // Neither has a body (RFC 9112, section 6.3).
    if status == 204 || status == 304 || (100..200).contains(&status) {
        head.framing = Framing::Length(0);
    }
    head.keep_alive &= head.framing != Framing::UntilClose;
    Ok(Some(head))
}

fn note_header(head: &mut ResponseHead, header: &httparse::Header<'_>) -> Result<(), Error> {
    let value = header.value.trim_ascii();
    if header.name.eq_ignore_ascii_case("content-length") && head.framing != Framing::Chunked {
        head.framing = Framing::Length(parse_number(value, 10)?);
    } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
        head.framing = Framing::Chunked;
    } else if header.name.eq_ignore_ascii_case("connection") {
        head.keep_alive &= !value.eq_ignore_ascii_case(b"close");
    }
    Ok(())
}

/// Decodes a chunked body at the start of `bytes` and tells how many bytes it took; `None` if it
/// is not complete yet. Trailers are skipped.
///
/// # Errors
/// [`Error::Malformed`].
pub fn parse_chunked(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Error> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let Some(line) = line_at(bytes, at) else {
            return Ok(None);
        };
        at += line.len() + 2;
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let size = parse_number(size.trim_ascii(), 16)?;
        if size == 0 {
            return Ok(skip_trailers(bytes, at).map(|end| (body, end)));
        }
        let Some(chunk) = bytes.get(at..at.saturating_add(size).saturating_add(2)) else {
            return Ok(None);
        };
        if !chunk.ends_with(b"\r\n") {
            return Err(Error::Malformed(
                "a chunk has another length than it says".to_owned(),
            ));
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
    }
}

fn skip_trailers(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let line = line_at(bytes, at)?;
        at += line.len() + 2;
        if line.is_empty() {
            return Some(at);
        }
    }
}

fn line_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some(&rest[..end])
}

fn parse_number(text: &[u8], radix: u32) -> Result<usize, Error> {
    let parsed = std::str::from_utf8(text)
        .ok()
        .and_then(|text| usize::from_str_radix(text, radix).ok());
    parsed.ok_or_else(|| {
        Error::Malformed(format!("{:?} is no length", String::from_utf8_lossy(text)))
    })
}

/// A whole response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers in their order, names as sent.
    pub headers: Vec<(String, String)>,
    /// Body, decoded from its framing.
    pub body: Vec<u8>,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
}

impl Response {
    /// The first header of this name, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The body as JSON, `null` if it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One request; [`Request::bytes`] is what goes over the wire.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Method token.
    pub method: &'a str,
    /// Path with query.
    pub path: &'a str,
    /// Headers beside `Host` and `Content-Length`.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body; `Content-Length` is sent with it, or for methods that may have one.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A request without body.
    #[must_use]
    pub fn new(method: &'a str, path: &'a str) -> Self {
        Self {
            method,
            path,
            headers: &[],
            body: &[],
        }
    }

    /// A `POST` of JSON.
    #[must_use]
    pub fn post(path: &'a str, body: &'a [u8]) -> Self {
        Self {
            method: "POST",
            path,
            headers: &[("Content-Type", "application/json")],
            body,
        }
    }

    /// The request as it goes over the wire.
    #[must_use]
    pub fn bytes(&self, host: SocketAddr) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", self.method, self.path);
        for (name, value) in self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !self.body.is_empty() || self.method == "POST" {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body);
        bytes
    }
}

/// One keep-alive connection.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    stream: TcpStream,
    limit: Duration,
    unread: Vec<u8>,
}

impl Client {
    /// Connects; `limit` is the deadline of this and of each following exchange.
    ///
    /// # Errors
    /// [`Error::Socket`] if nobody accepts.
    pub fn connect(address: SocketAddr, limit: Duration) -> Result<Self, Error> {
        let failed = |source| Error::Socket { address, source };
        let stream = TcpStream::connect_timeout(&address, limit).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_write_timeout(Some(limit)).map_err(failed)?;
        Ok(Self {
            address,
            stream,
            limit,
            unread: Vec::new(),
        })
    }

    /// Sends a request and reads its response.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::receive`].
    pub fn exchange(&mut self, request: &Request<'_>) -> Result<Response, Error> {
        self.send(&request.bytes(self.address))?;
        self.receive(request.method == "HEAD")
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let address = self.address;
        let sent = self.stream.write_all(bytes);
        sent.map_err(|source| Error::Socket { address, source })
    }

    /// Reads the next response; `head_only` if it answers a `HEAD` request.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Closed`], [`Error::Malformed`], [`Error::Socket`].
    pub fn receive(&mut self, head_only: bool) -> Result<Response, Error> {
        let deadline = Instant::now() + self.limit;
        let mut closed = false;
        loop {
            if let Some((response, used)) = complete(&self.unread, head_only, closed)? {
                self.unread.drain(..used);
                return Ok(response);
            }
            if closed {
                return Err(Error::Closed(self.unread.len()));
            }
            closed = self.read(deadline)? == 0;
        }
    }

    /// Whether the peer closes the connection within `limit` without sending anything.
    #[must_use]
    pub fn is_closed_within(&mut self, limit: Duration) -> bool {
        matches!(
            self.read(Instant::now() + limit),
            Ok(0) | Err(Error::Socket { .. })
        )
    }

    fn read(&mut self, deadline: Instant) -> Result<usize, Error> {
        let address = self.address;
        let failed = |source| Error::Socket { address, source };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::TimedOut(self.limit));
        }
        self.stream.set_read_timeout(Some(left)).map_err(failed)?;
        let mut bytes = [0; READ_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(count) => {
                self.unread.extend_from_slice(&bytes[..count]);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(Error::TimedOut(self.limit))
            }
            // A signal interrupts a read that has a timeout, whatever its handler says (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read(deadline),
            Err(error) => Err(failed(error)),
        }
    }
}

/// One request on a fresh connection.
///
/// # Errors
/// As [`Client::connect`] and [`Client::exchange`].
pub fn once(
    address: SocketAddr,
    limit: Duration,
    request: &Request<'_>,
) -> Result<Response, Error> {
    Client::connect(address, limit)?.exchange(request)
}

/// The response at the start of `bytes` with its length, if it is complete.
fn complete(
    bytes: &[u8],
    head_only: bool,
    closed: bool,
) -> Result<Option<(Response, usize)>, Error> {
    let Some(head) = parse_response_head(bytes)? else {
        return Ok(None);
    };
    let rest = &bytes[head.head_bytes..];
    let body = match head.framing {
        _ if head_only => Some((Vec::new(), 0)),
        Framing::Length(length) => rest.get(..length).map(|body| (body.to_vec(), length)),
        Framing::Chunked => parse_chunked(rest)?,
        Framing::UntilClose => closed.then(|| (rest.to_vec(), rest.len())),
    };
    Ok(body.map(|(body, used)| {
        let response = Response {
            status: head.status,
            headers: headers_of(&bytes[..head.head_bytes]),
            body,
            keep_alive: head.keep_alive,
        };
        (response, head.head_bytes + used)
    }))
}

fn headers_of(head: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(head);
    let lines = text.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> ResponseHead {
        parse_response_head(text.as_bytes())
            .expect("valid")
            .expect("complete")
    }

    #[test]
    fn the_framing_is_found_in_the_head() {
        let table = [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n",
                Framing::Length(12),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                Framing::Chunked,
                true,
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", Framing::Length(0), true),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose, false),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
                Framing::Length(1),
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 1\r\n\r\n",
                Framing::Length(1),
                false,
            ),
        ];
        for (text, framing, keep_alive) in table {
            let head = head(text);
            assert_eq!(
                (head.framing, head.keep_alive),
                (framing, keep_alive),
                "{text}"
            );
            assert_eq!(head.head_bytes, text.len());
        }
    }

    #[test]
    fn a_partial_head_is_not_an_error_and_garbage_is() {
        assert!(matches!(parse_response_head(b"HTTP/1.1 200"), Ok(None)));
        assert!(parse_response_head(b"AMQP\x00\x00\x09\x01").is_err());
        assert!(parse_response_head(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").is_err());
    }

    #[test]
    fn chunks_are_joined_and_their_end_is_found() {
        let bytes = b"4\r\nabcd\r\n2;x=y\r\nef\r\n0\r\nT: v\r\n\r\nNEXT";
        let (body, used) = parse_chunked(bytes).expect("valid").expect("complete");
        assert_eq!(body, b"abcdef");
        assert_eq!(&bytes[used..], b"NEXT");
        for cut in 0..used {
            assert!(
                parse_chunked(&bytes[..cut])
                    .expect("valid so far")
                    .is_none(),
                "{cut}"
            );
        }
    }

    #[test]
    fn a_chunk_that_lies_about_its_length_is_refused() {
        assert!(parse_chunked(b"2\r\nabcd\r\n0\r\n\r\n").is_err());
    }
}
