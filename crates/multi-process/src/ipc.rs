//! Carries questions of the REST processes to the AMQP process, and its answers back.
//!
//! Particular to processes: what a lock is to threads and nothing at all to tasks is a round trip
//! through the kernel here, so everything is arranged for one `write` and one `read` per question:
//! a process that answers one request at a time has one question at a time, hence no ids, no
//! multiplexing, and no thread between the request and the socket.

pub mod answers;

use std::{
    io::{self, Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use contract::{
    Problem, ProblemKind,
    limits::{CONFIRM_TIMEOUT, DEVICE_POOL_TIMEOUT},
    metrics::Histogram,
};

/// Longest frame in bytes: a page of 1,000 keys of 128 bytes with room to spare.
const MAX_FRAME: usize = 1 << 20;
/// First size of a frame buffer: most frames fit, and an idle process keeps little memory.
const BUFFER: usize = 8 << 10;
/// Time for an answer that needs no waiting on the other side, and for the rest of a begun frame.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time for the first answer on a new connection. The listener outlives the AMQP process, so that a
/// connect succeeds even if nobody is there to accept; this is how long that may go unnoticed.
const HELLO_PATIENCE: Duration = Duration::from_millis(250);
/// Time between two attempts to connect; in between a question fails at once.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// Head of a frame: the length of what follows, little-endian.
const HEAD: usize = 4;

/// A name for the socket that no other service on the machine has.
///
/// An abstract name lives as long as a descriptor does: nothing in the file system to protect
/// with permissions, to remove, or to be left behind by `kill -9`. What a 0700 directory would
/// give, that no other user can connect, [`is_ours`] checks by the peer's user id.
pub fn unique_name() -> String {
    format!(
        "threeways-{}-{:016x}",
        std::process::id(),
        fastrand::u64(..)
    )
}

/// Binds the socket.
///
/// # Errors
/// If the kernel refuses.
pub fn bind(name: &str) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Whether the process at the other end belongs to our user.
pub fn is_ours(stream: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

/// What a REST process asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question<'a> {
    /// Introduces the process by its pid.
    Hello(u32),
    /// The latest values of a key.
    Latest(&'a str),
    /// A page of keys; the query string, which was checked already.
    Keys(&'a str),
    /// Publishes an event, as JSON; answered with its message id after the broker's confirm.
    Publish(&'a [u8]),
    /// State of the AMQP side, and which processes there are.
    Status,
    /// The process's own figures, and a wish for everybody's.
    Metrics(&'a [u8]),
    /// The right to hold a connection to the device.
    Lease,
    /// Gives it back.
    Release,
}

impl<'a> Question<'a> {
    /// Longest sensible wait for the answer: a little more than the other side may take.
    fn patience(self) -> Duration {
        match self {
            Self::Hello(_) => HELLO_PATIENCE,
            Self::Publish(_) => CONFIRM_TIMEOUT + PATIENCE,
            Self::Lease => DEVICE_POOL_TIMEOUT + PATIENCE,
            _ => PATIENCE,
        }
    }

    /// Sends the question as one frame: a tag and the bytes as they are.
    ///
    /// A general codec would have to copy the key into a message and out again; bytes with a tag
    /// are read in place. What is asked once a second is JSON inside, so that it can be read.
    fn send(self, wire: &mut Wire) -> io::Result<()> {
        match self {
            Self::Hello(pid) => wire.send(b'H', &[&pid.to_le_bytes()]),
            Self::Latest(key) => wire.send(b'L', &[key.as_bytes()]),
            Self::Keys(query) => wire.send(b'K', &[query.as_bytes()]),
            Self::Publish(event) => wire.send(b'P', &[event]),
            Self::Status => wire.send(b'S', &[]),
            Self::Metrics(report) => wire.send(b'M', &[report]),
            Self::Lease => wire.send(b'D', &[]),
            Self::Release => wire.send(b'd', &[]),
        }
    }

    /// Reads a frame; `None` if it is no question.
    fn parse(frame: &'a [u8]) -> Option<Self> {
        let (tag, payload) = frame.split_first()?;
        Some(match tag {
            b'H' => Self::Hello(u32::from_le_bytes(payload.try_into().ok()?)),
            b'L' => Self::Latest(std::str::from_utf8(payload).ok()?),
            b'K' => Self::Keys(std::str::from_utf8(payload).ok()?),
            b'P' => Self::Publish(payload),
            b'S' => Self::Status,
            b'M' => Self::Metrics(payload),
            b'D' => Self::Lease,
            b'd' => Self::Release,
            _ => return None,
        })
    }
}

/// What is answered: bytes whose meaning follows from the question, or a problem.
pub type Answer = Result<Vec<u8>, Problem>;

/// Problems that the AMQP process may answer with; they travel by their slug.
const PROBLEMS: [ProblemKind; 6] = [
    ProblemKind::NotFound,
    ProblemKind::BrokerUnavailable,
    ProblemKind::Overloaded,
    ProblemKind::Draining,
    ProblemKind::ConfirmTimeout,
    ProblemKind::Internal,
];

fn send_answer(wire: &mut Wire, answer: &Answer) -> io::Result<()> {
    match answer {
        Ok(body) => wire.send(b'+', &[body]),
        Err(problem) => wire.send(
            b'-',
            &[
                problem.kind.slug().as_bytes(),
                b"\n",
                problem.detail.as_bytes(),
            ],
        ),
    }
}

/// Reads an answer; `None` if the frame is none.
fn parse_answer(frame: &[u8]) -> Option<Result<&[u8], Problem>> {
    match frame.split_first()? {
        (b'+', body) => Some(Ok(body)),
        (b'-', problem) => {
            let (slug, detail) = std::str::from_utf8(problem).ok()?.split_once('\n')?;
            let kind = PROBLEMS.into_iter().find(|kind| kind.slug() == slug)?;
            Some(Err(Problem::new(kind, detail)))
        }
        _ => None,
    }
}

/// A connection that carries frames; the buffers live as long as it does.
#[derive(Debug)]
struct Wire {
    stream: UnixStream,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    patience: Option<Duration>,
}

impl Wire {
    fn new(stream: UnixStream) -> io::Result<Self> {
        // Nobody may stop this process by not reading.
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            outgoing: Vec::new(),
            incoming: vec![0; BUFFER],
            patience: None,
        })
    }

    /// Sends one frame with a single `write`: two would wake the other side twice.
    fn send(&mut self, tag: u8, parts: &[&[u8]]) -> io::Result<()> {
        let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
        let length = u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.outgoing.clear();
        self.outgoing.extend_from_slice(&length.to_le_bytes());
        self.outgoing.push(tag);
        for part in parts {
            self.outgoing.extend_from_slice(part);
        }
        self.stream.write_all(&self.outgoing)
    }

    /// Receives one frame, normally with a single `read`, since it was written by one `write`.
    /// `patience` bounds the wait for its beginning; its rest has to follow at once.
    fn receive(&mut self, patience: Option<Duration>) -> io::Result<&[u8]> {
        self.set_patience(patience)?;
        let mut filled = 0;
        loop {
            match self.stream.read(&mut self.incoming[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => filled += n,
            }
            if let Some(end) = frame_end(&self.incoming[..filled])? {
                if filled == end {
                    return Ok(&self.incoming[HEAD..end]);
                }
                if filled > end {
                    // One question at a time: what lies behind a frame was never asked for.
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if self.incoming.len() < end {
                    self.incoming.resize(end, 0);
                }
            }
            self.set_patience(Some(PATIENCE))?;
        }
    }

    /// Sets the read timeout if it changes: it is a system call of its own.
    fn set_patience(&mut self, patience: Option<Duration>) -> io::Result<()> {
        if self.patience != patience {
            self.stream.set_read_timeout(patience)?;
            self.patience = patience;
        }
        Ok(())
    }
}

/// Where the frame at the start of `bytes` ends; `None` if its head is not complete.
fn frame_end(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some((head, _)) = bytes.split_first_chunk::<HEAD>() else {
        return Ok(None);
    };
    match usize::try_from(u32::from_le_bytes(*head)) {
        Ok(length @ 1..=MAX_FRAME) => Ok(Some(HEAD + length)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The asking side: one connection of a REST process, made anew when it is lost.
#[derive(Debug)]
pub struct Client {
    name: String,
    wire: Option<Wire>,
    retry_at: Instant,
    roundtrips: Histogram,
}

impl Client {
    /// A client that connects at its first question.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            wire: None,
            retry_at: Instant::now(),
            roundtrips: Histogram::default(),
        }
    }

    /// Durations of all round trips so far.
    pub const fn roundtrips(&self) -> &Histogram {
        &self.roundtrips
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The other side's problem, or [`ProblemKind::StoreUnavailable`] if it cannot be reached.
    pub fn ask(&mut self, question: Question<'_>) -> Result<&[u8], Problem> {
        let started = Instant::now();
        if self.wire.is_none() {
            self.wire = Some(self.connect().map_err(|error| unavailable(&error))?);
        }
        let wire = self.wire.as_mut().expect("connected above");
        let outcome = question.send(wire).and_then(|()| {
            wire.receive(Some(question.patience()))
                .map(|frame| frame.len())
        });
        match outcome {
            Ok(length) => {
                self.roundtrips.observe(started.elapsed().as_secs_f64());
                let wire = self.wire.as_ref().expect("still connected");
                parse_answer(&wire.incoming[HEAD..HEAD + length])
                    .unwrap_or_else(|| Err(unavailable(&io::ErrorKind::InvalidData.into())))
            }
            Err(error) => {
                // An answer that comes too late would be taken for that of the next question.
                self.wire = None;
                Err(unavailable(&error))
            }
        }
    }

    /// Connects, checks whose socket it is, and waits for a sign of life.
    fn connect(&mut self) -> io::Result<Wire> {
        if Instant::now() < self.retry_at {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let attempt = self.try_connect();
        if attempt.is_err() {
            self.retry_at = Instant::now() + RETRY_DELAY;
        }
        attempt
    }

    fn try_connect(&self) -> io::Result<Wire> {
        let address = SocketAddr::from_abstract_name(&self.name)?;
        let stream = UnixStream::connect_addr(&address)?;
        if !is_ours(&stream) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut wire = Wire::new(stream)?;
        let hello = Question::Hello(std::process::id());
        hello.send(&mut wire)?;
        wire.receive(Some(hello.patience()))?;
        Ok(wire)
    }
}

fn unavailable(error: &io::Error) -> Problem {
    log::debug!("the AMQP process does not answer: {error}");
    Problem::new(
        ProblemKind::StoreUnavailable,
        "the AMQP process does not answer",
    )
}

/// The answering side: what one connection of the AMQP process does for its whole life.
///
/// A thread per connection that blocks in `read`: there are as many as REST processes, a handful,
/// and the thread that was woken is the one that answers. A poll loop would save their stacks, but
/// let one publish that waits for its confirm delay everybody's reads.
pub fn answer_all(stream: UnixStream, mut answer: impl FnMut(Question<'_>) -> Answer) {
    let Ok(mut wire) = Wire::new(stream) else {
        return;
    };
    loop {
        let Ok(frame) = wire.receive(None) else {
            return;
        };
        let Some(question) = Question::parse(frame) else {
            log::error!("a frame that is no question; closing");
            return;
        };
        let answer = answer(question);
        if send_answer(&mut wire, &answer).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Client, UnixStream) {
        let (near, far) = UnixStream::pair().expect("socket pair");
        let mut client = Client::new("unused");
        client.wire = Some(Wire::new(near).expect("wire"));
        (client, far)
    }

    #[test]
    fn every_question_arrives_as_it_was_asked() {
        let questions = [
            Question::Hello(7),
            Question::Latest("sensor-1"),
            Question::Keys("limit=2"),
            Question::Publish(b"{}"),
            Question::Status,
            Question::Metrics(b"{}"),
            Question::Lease,
            Question::Release,
        ];
        let (near, far) = UnixStream::pair().expect("socket pair");
        let (mut near, mut far) = (
            Wire::new(near).expect("wire"),
            Wire::new(far).expect("wire"),
        );
        for question in questions {
            question.send(&mut near).expect("sent");
            assert_eq!(
                Question::parse(far.receive(None).expect("received")),
                Some(question)
            );
        }
    }

    #[test]
    fn a_long_answer_and_a_problem_cross_the_socket() {
        let (mut client, far) = pair();
        let answering = std::thread::spawn(move || {
            answer_all(far, |question| match question {
                Question::Keys(_) => Ok(vec![b'k'; 200_000]),
                _ => Err(Problem::new(
                    ProblemKind::NotFound,
                    "nothing is known of this key",
                )),
            });
        });
        assert_eq!(
            client.ask(Question::Keys("")).expect("answered").len(),
            200_000
        );
        let problem = client.ask(Question::Latest("a")).expect_err("unknown");
        assert_eq!(problem.detail, "nothing is known of this key");
        assert_eq!(client.roundtrips().count(), 2);
        drop(client);
        answering.join().expect("ends with its connection");
    }

    #[test]
    fn a_lost_connection_is_unavailability_and_not_a_hang() {
        let (mut client, far) = pair();
        drop(far);
        let problem = client.ask(Question::Status).expect_err("gone");
        assert_eq!(problem.kind, ProblemKind::StoreUnavailable);
    }

    #[test]
    fn a_frame_without_end_is_refused_by_its_head() {
        assert!(frame_end(&u32::MAX.to_le_bytes()).is_err());
        assert!(frame_end(&0_u32.to_le_bytes()).is_err());
        assert_eq!(frame_end(&[1, 0]).expect("incomplete"), None);
        assert_eq!(frame_end(&5_u32.to_le_bytes()).expect("complete"), Some(9));
    }

    #[test]
    fn every_problem_that_travels_is_recognised() {
        for kind in PROBLEMS {
            let frame = format!("-{}\nwhy", kind.slug());
            let answer = parse_answer(frame.as_bytes()).expect("an answer");
            assert_eq!(answer.expect_err("a problem").kind, kind);
        }
    }
}
