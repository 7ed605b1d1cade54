//! The load's clock, and the instant at which the kernel got an answer.

use std::io::IoSliceMut;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use super::nanoseconds;

/// Readings of both clocks of which the closest pair counts.
const READINGS: usize = 16;
/// Difference of the two clocks' paces over a load from which the stamps are not believed.
const MOST_DRIFT: Duration = Duration::from_micros(20);

/// Nanoseconds since the start of the load.
///
/// The kernel stamps what it receives by the real-time clock, so the clock knows what that showed
/// at the start. Both clocks are slewed alike; only somebody who sets the time parts them.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    real_start: Duration,
}

impl Clock {
    /// A clock that starts at `start`, which may lie ahead.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        let (now, real_now) = both_clocks();
        let ahead = start.saturating_duration_since(now);
        let behind = now.saturating_duration_since(start);
        Self {
            start,
            real_start: real_now + ahead - behind,
        }
    }

    /// Now; 0 before the start.
    #[must_use]
    pub fn now_ns(self) -> u64 {
        nanoseconds(self.start.elapsed())
    }

    /// The instant that lies so long behind the start.
    pub(crate) fn instant(self, at_ns: u64) -> Instant {
        self.start + Duration::from_nanos(at_ns)
    }

    /// The instant of a stamp of the kernel; 0 before the start.
    fn stamped_ns(self, stamp: Duration) -> u64 {
        nanoseconds(stamp.saturating_sub(self.real_start))
    }

    /// Whether somebody has set the time since the clock was made, which parts the stamps from
    /// the schedule.
    #[must_use]
    pub fn was_set(self) -> bool {
        let again = Self::new(self.start).real_start;
        again.abs_diff(self.real_start) > MOST_DRIFT
    }
}

/// The two clocks at the same instant, as nearly as can be had.
fn both_clocks() -> (Instant, Duration) {
    let pair = || {
        let before = Instant::now();
        let real = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let width = before.elapsed();
        (width, before + width / 2, real)
    };
    let closest = (0..READINGS).map(|_| pair()).min_by_key(|pair| pair.0);
    let (_, now, real) = closest.expect("there is more than one reading");
    (now, real)
}

/// Bytes of an answer that have come.
pub(crate) struct Received<'a> {
    /// The bytes; none if the peer has closed.
    pub(crate) bytes: &'a [u8],
    /// When the last of them came, by the kernel's stamp.
    pub(crate) at_ns: u64,
}

/// Reads sockets together with the kernel's stamps.
///
/// A response time that ends when the loop gets to read the answer holds the loop's own
/// wake-up, 20–50 µs on a virtual machine, and more under load. With the stamp it ends when the last
/// byte came to the client's socket.
#[derive(Debug)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    control: Vec<u8>,
}

impl Inbox {
    /// Reads at most `capacity` bytes at once.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity],
            control: nix::cmsg_space!(TimeSpec),
        }
    }

    /// Asks the kernel to stamp what this socket receives.
    ///
    /// # Errors
    /// If the kernel does not offer it.
    pub(crate) fn register(stream: &TcpStream) -> std::io::Result<()> {
        Ok(setsockopt(stream, sockopt::ReceiveTimestampns, &true)?)
    }

    /// Whether a read of that length has emptied the socket: the next byte is a new event.
    pub(super) fn is_short(&self, count: usize) -> bool {
        count < self.bytes.len()
    }

    /// Reads once, without waiting.
    ///
    /// # Errors
    /// Those of the socket, among them that nothing has come.
    pub(crate) fn read(
        &mut self,
        stream: &TcpStream,
        clock: Clock,
    ) -> std::io::Result<Received<'_>> {
        let mut slices = [IoSliceMut::new(&mut self.bytes)];
        let message = recvmsg::<()>(
            stream.as_raw_fd(),
            &mut slices,
            Some(&mut self.control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let stamp = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::ScmTimestampns(stamp) => Some(Duration::from(stamp)),
            _ => None,
        });
        let count = message.bytes;
        // The kernel begins to stamp some instants after the first socket has asked for it.
        let at_ns = stamp.map_or_else(|| clock.now_ns(), |stamp| clock.stamped_ns(stamp));
        Ok(Received {
            bytes: &self.bytes[..count],
            at_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// Time that an answer lies in the socket: long against any stall.
    const LIES: Duration = Duration::from_millis(50);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let client = TcpStream::connect(address).expect("it listens");
        let (server, _) = listener.accept().expect("somebody has connected");
        (client, server)
    }

    #[test]
    fn an_answer_that_lies_in_the_socket_bears_the_instant_of_its_arrival() {
        let (client, mut server) = pair();
        Inbox::register(&client).expect("Linux stamps");
        let clock = Clock::new(Instant::now());
        let mut inbox = Inbox::new(64);
        let mut late_ns = || {
            let written_ns = clock.now_ns();
            server.write_all(b"answer").expect("the peer is there");
            std::thread::sleep(LIES);
            let received = inbox.read(&client, clock).expect("it has come");
            assert_eq!(received.bytes, b"answer");
            assert!(received.at_ns >= written_ns);
            received.at_ns - written_ns
        };
        // The kernel begins to stamp a little after it was asked to; a stall may spoil one more.
        let earliest_ns = (0..10).map(|_| late_ns()).min().expect("ten answers");
        assert!(earliest_ns < nanoseconds(LIES) / 5, "{earliest_ns} ns");
    }

    #[test]
    fn nothing_that_has_come_and_a_peer_that_has_gone_are_told_apart() {
        let (client, server) = pair();
        let clock = Clock::new(Instant::now());
        let mut inbox = Inbox::new(64);
        let nothing = inbox.read(&client, clock).err().map(|error| error.kind());
        assert_eq!(nothing, Some(std::io::ErrorKind::WouldBlock));
        drop(server);
        std::thread::sleep(LIES);
        assert!(
            inbox
                .read(&client, clock)
                .expect("the end")
                .bytes
                .is_empty()
        );
    }

    #[test]
    fn a_stamp_before_the_start_is_zero_and_a_clock_that_nobody_sets_is_believed() {
        let ahead = Clock::new(Instant::now() + Duration::from_secs(60));
        let (_, real_now) = both_clocks();
        assert_eq!((ahead.now_ns(), ahead.stamped_ns(real_now)), (0, 0));
        let behind = Clock::new(Instant::now());
        let second_ns = behind.stamped_ns(behind.real_start + Duration::from_secs(1));
        assert_eq!(second_ns, 1_000_000_000);
        assert!(!behind.was_set());
        let set = Clock {
            real_start: behind.real_start + Duration::from_millis(1),
            ..behind
        };
        assert!(set.was_set());
    }
}
