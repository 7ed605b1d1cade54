//! Carries questions of the REST processes to the AMQP process, and its answers back.
//!
//! Particular to processes: what a lock is to threads and nothing at all to tasks is a round trip
//! through the kernel here, two system calls and a change of process each way.
//! So everything is arranged for one `write` and one `read` per turn: who asks has nothing else to do
//! while it waits, hence no ids, no multiplexing, and no thread between the request and the socket;
//! and if several requests have arrived meanwhile, their questions travel together.
//! Requests that wait at the same time each have a connection of their own, see [`Clients`].

pub mod answers;
#[cfg(test)]
mod campaigns;
mod clients;
mod wire;

pub use self::clients::Clients;

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use contract::{
    Problem, ProblemKind,
    limits::{CONFIRM_TIMEOUT, DEVICE_POOL_TIMEOUT, HANDLER_TIMEOUT},
    metrics::Histogram,
};

use self::wire::Wire;

/// Time for an answer that needs no waiting on the other side, and for the rest of a begun frame.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time for the first answer on a new connection. The listener outlives the AMQP process, so that a
/// connect succeeds even if nobody is there to accept; this is how long that may go unnoticed.
const HELLO_PATIENCE: Duration = Duration::from_millis(250);
/// Time between two attempts to connect; in between a question fails at once.
const RETRY_DELAY: Duration = Duration::from_millis(250);

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
/// A stream socket with frames of our own and not `SOCK_SEQPACKET`, which would keep the frames apart
/// itself: the standard library offers only the stream, and a packet is limited by the send buffer,
/// which a page of keys exceeds.
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
    /// Series; the request's body, which was checked already.
    Series(&'a [u8]),
    /// Forgets a key.
    Forget(&'a str),
    /// Starts a job; the request's body, which was checked already.
    StartJob(&'a [u8]),
    /// A job as it stands.
    ShowJob(u64),
    /// Cancels a job.
    CancelJob(u64),
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
    /// Whether one more client may be connected to the service, beside the so many of this process:
    /// an AMQP process that is new does not know of them.
    Enter(u32),
    /// A client has gone.
    Leave,
    /// Whether one more request may be in hand, beyond the share of this process.
    Begin,
    /// It is answered; asked on the same connection.
    End,
}

impl<'a> Question<'a> {
    /// Longest sensible wait for the answer: a little more than the other side may take.
    fn patience(self) -> Duration {
        match self {
            Self::Hello(_) => HELLO_PATIENCE,
            Self::Publish(_) => CONFIRM_TIMEOUT + PATIENCE,
            Self::Lease => DEVICE_POOL_TIMEOUT + PATIENCE,
            // A million points take their time to be written.
            Self::Series(_) => HANDLER_TIMEOUT,
            _ => PATIENCE,
        }
    }

    /// Adds the question to what is sent next, as one frame: a tag and the bytes as they are.
    ///
    /// A general codec would have to copy the key into a message and out again; bytes with a tag
    /// are read in place. What is asked once a second is JSON inside, so that it can be read.
    fn push(self, wire: &mut Wire) -> io::Result<()> {
        match self {
            Self::Hello(pid) => wire.push(b'H', &[&pid.to_le_bytes()]),
            Self::Latest(key) => wire.push(b'L', &[key.as_bytes()]),
            Self::Keys(query) => wire.push(b'K', &[query.as_bytes()]),
            Self::Series(query) => wire.push(b'Q', &[query]),
            Self::Forget(key) => wire.push(b'F', &[key.as_bytes()]),
            Self::StartJob(request) => wire.push(b'J', &[request]),
            Self::ShowJob(id) => wire.push(b'j', &[&id.to_le_bytes()]),
            Self::CancelJob(id) => wire.push(b'x', &[&id.to_le_bytes()]),
            Self::Publish(event) => wire.push(b'P', &[event]),
            Self::Status => wire.push(b'S', &[]),
            Self::Metrics(report) => wire.push(b'M', &[report]),
            Self::Lease => wire.push(b'D', &[]),
            Self::Release => wire.push(b'd', &[]),
            Self::Enter(own) => wire.push(b'E', &[&own.to_le_bytes()]),
            Self::Leave => wire.push(b'e', &[]),
            Self::Begin => wire.push(b'B', &[]),
            Self::End => wire.push(b'b', &[]),
        }
    }

    /// Reads a frame; `None` if it is no question.
    fn parse(frame: &'a [u8]) -> Option<Self> {
        let (tag, payload) = frame.split_first()?;
        if matches!(tag, b'S' | b'D' | b'd' | b'e' | b'B' | b'b') && !payload.is_empty() {
            return None;
        }
        Some(match tag {
            b'H' => Self::Hello(u32::from_le_bytes(payload.try_into().ok()?)),
            b'L' => Self::Latest(std::str::from_utf8(payload).ok()?),
            b'K' => Self::Keys(std::str::from_utf8(payload).ok()?),
            b'Q' => Self::Series(payload),
            b'F' => Self::Forget(std::str::from_utf8(payload).ok()?),
            b'J' => Self::StartJob(payload),
            b'j' => Self::ShowJob(u64::from_le_bytes(payload.try_into().ok()?)),
            b'x' => Self::CancelJob(u64::from_le_bytes(payload.try_into().ok()?)),
            b'P' => Self::Publish(payload),
            b'S' => Self::Status,
            b'M' => Self::Metrics(payload),
            b'D' => Self::Lease,
            b'd' => Self::Release,
            b'E' => Self::Enter(u32::from_le_bytes(payload.try_into().ok()?)),
            b'e' => Self::Leave,
            b'B' => Self::Begin,
            b'b' => Self::End,
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

fn push_answer(wire: &mut Wire, answer: &Answer) -> io::Result<()> {
    match answer {
        Ok(body) => wire.push(b'+', &[body]),
        Err(problem) => {
            let (slug, detail) = (problem.kind.slug(), &problem.detail);
            wire.push(b'-', &[slug.as_bytes(), b"\n", detail.as_bytes()])
        }
    }
}

/// Reads an answer; `None` if the frame is none.
fn parse_answer(frame: &[u8]) -> Option<Answer> {
    match frame.split_first()? {
        (b'+', body) => Some(Ok(body.to_vec())),
        (b'-', problem) => {
            let (slug, detail) = std::str::from_utf8(problem).ok()?.split_once('\n')?;
            let kind = PROBLEMS.into_iter().find(|kind| kind.slug() == slug)?;
            Some(Err(Problem::new(kind, detail)))
        }
        _ => None,
    }
}

/// The asking side: one connection of a REST process, made anew when it is lost.
#[derive(Debug)]
pub struct Client {
    name: String,
    /// `None` before the first question and after a loss.
    wire: Option<Wire>,
    /// No attempt to connect before this: while the AMQP process is away, a question must fail at
    /// once, because the one thread that asks has other requests to serve.
    retry_at: Instant,
    /// Whether a connection did not last; the others of the process are as old.
    lost: bool,
    roundtrips: Histogram,
}

impl Client {
    /// A client that connects at its first question.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            wire: None,
            retry_at: Instant::now(),
            lost: false,
            roundtrips: Histogram::default(),
        }
    }

    /// Durations of the round trips since the last time.
    pub fn take_roundtrips(&mut self) -> Histogram {
        std::mem::take(&mut self.roundtrips)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The other side's problem, or [`ProblemKind::StoreUnavailable`] if it cannot be reached.
    pub fn ask(&mut self, question: Question<'_>) -> Answer {
        let mut answer = None;
        self.ask_all(&[question], |it| answer = Some(it));
        answer.expect("each question has an answer")
    }

    /// Asks several questions in one round trip; `take` gets an answer to each, in their order.
    pub fn ask_all(&mut self, questions: &[Question<'_>], mut take: impl FnMut(Answer)) {
        let started = Instant::now();
        let mut answered = 0;
        let outcome = self.exchange(questions, |answer| {
            answered += 1;
            take(answer);
        });
        if let Err(error) = outcome {
            log::debug!("the AMQP process does not answer: {error}");
            // An answer that comes too late would be taken for that of the next question.
            self.lost |= self.wire.take().is_some();
            for _ in answered..questions.len() {
                take(Err(unavailable()));
            }
        } else {
            self.roundtrips.observe(started.elapsed().as_secs_f64());
        }
    }

    /// One turn: everything out, everything back. Any error leaves the stream at an unknown place, so
    /// the caller gives the connection up.
    fn exchange(
        &mut self,
        questions: &[Question<'_>],
        mut take: impl FnMut(Answer),
    ) -> io::Result<()> {
        if self.wire.is_none() {
            self.wire = Some(self.connect()?);
        }
        let wire = self.wire.as_mut().expect("connected above");
        for question in questions {
            question.push(wire)?;
        }
        wire.flush()?;
        for question in questions {
            let frame = wire.receive(Some(question.patience()))?;
            take(parse_answer(frame).ok_or(io::ErrorKind::InvalidData)?);
        }
        Ok(())
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

    /// A listener that belongs to nobody else may still be a stranger's who has taken the name: the
    /// user id is asked of the kernel, which a peer cannot make up.
    fn try_connect(&self) -> io::Result<Wire> {
        let address = SocketAddr::from_abstract_name(&self.name)?;
        let stream = UnixStream::connect_addr(&address)?;
        if !is_ours(&stream) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut wire = Wire::new(stream)?;
        let hello = Question::Hello(std::process::id());
        hello.push(&mut wire)?;
        wire.flush()?;
        wire.receive(Some(hello.patience()))?;
        Ok(wire)
    }
}

fn unavailable() -> Problem {
    Problem::new(
        ProblemKind::StoreUnavailable,
        "the AMQP process does not answer",
    )
}

/// The answering side: what one connection of the AMQP process does for its whole life.
///
/// A thread per connection that blocks in `read`: there are as many as REST processes, or as requests
/// that wait at once, and the thread that was woken is the one that answers. A poll loop would save their stacks, but
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
        let pushed = push_answer(&mut wire, &answer);
        // Questions that came together are answered together.
        if pushed.is_err() || (!wire.has_frame() && wire.flush().is_err()) {
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
            Question::Series(b"{}"),
            Question::Forget("sensor-1"),
            Question::StartJob(b"{}"),
            Question::ShowJob(1),
            Question::CancelJob(u64::MAX),
            Question::Enter(5),
            Question::Leave,
            Question::Begin,
            Question::End,
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
            question.push(&mut near).expect("encoded");
            near.flush().expect("sent");
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
        assert_eq!(client.take_roundtrips().count(), 2);
        drop(client);
        answering.join().expect("ends with its connection");
    }

    #[test]
    fn questions_that_go_together_are_answered_in_their_order() {
        let (mut client, far) = pair();
        std::thread::spawn(move || {
            answer_all(far, |question| match question {
                Question::Latest(key) => Ok(key.as_bytes().repeat(5_000)),
                _ => Err(Problem::new(ProblemKind::NotFound, "no such question")),
            });
        });
        let questions = ["a", "b", "c", "d"].map(Question::Latest);
        let mut firsts = Vec::new();
        client.ask_all(&questions, |answer| {
            let answer = answer.expect("answered");
            assert_eq!(answer.len(), 5_000);
            firsts.push(answer[0]);
        });
        assert_eq!(firsts, b"abcd");
        assert_eq!(client.take_roundtrips().count(), 1);
    }

    #[test]
    fn a_lost_connection_is_unavailability_and_not_a_hang() {
        let (mut client, far) = pair();
        drop(far);
        let problem = client.ask(Question::Status).expect_err("gone");
        assert_eq!(problem.kind, ProblemKind::StoreUnavailable);
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
