//! Finds the sockets that the HTTP library shows to nobody.
//!
//! Particular to processes: a thread that sleeps in `read` or `accept` is woken through its socket and
//! by nothing else, and the sockets of tiny_http's threads are the library's own.
//! But descriptors belong to the process: the kernel lists them, and duplicates any of them by its
//! number (`pidfd_getfd`), to whoever may trace this process, which it may itself, unless a sandbox
//! forbids the call. Adopting a number directly would be `unsafe`: it may be somebody else's by now.

use std::{
    fs, io,
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::{AsRawFd, RawFd},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};

/// This process's descriptors.
const FOLDER: &str = "/proc/self/fd";
/// Between two looks at something that takes its course.
const LOOK: Duration = Duration::from_millis(1);

/// A descriptor that was handed to a thread of the library, and is closed when that thread ends.
#[derive(Debug)]
pub struct Lent {
    number: RawFd,
    /// The socket as the kernel calls it; a descriptor's number is used again.
    socket: PathBuf,
}

impl Lent {
    /// Notes a listener before it is handed over.
    ///
    /// # Errors
    /// If the kernel does not list it.
    pub fn note(listener: &TcpListener) -> io::Result<Self> {
        let number = listener.as_raw_fd();
        let socket = fs::read_link(format!("{FOLDER}/{number}"))?;
        Ok(Self { number, socket })
    }

    /// Whether it is still open; asking takes no descriptor.
    #[must_use]
    pub fn is_open(&self) -> bool {
        fs::read_link(format!("{FOLDER}/{}", self.number)).is_ok_and(|socket| socket == self.socket)
    }
}

/// Waits until everybody who has connected was accepted: closing a listener resets the connections
/// that wait in its backlog, and with them requests that were sent already.
///
/// Who connects between this and the closing, some microseconds later, is reset all the same; no
/// system call closes a listener for newcomers only.
pub fn await_empty_backlog(listener: &TcpListener, deadline: Instant) {
    // A listener is readable as long as somebody waits to be accepted.
    let mut waiting = [PollFd::new(listener, PollFlags::IN)];
    while poll(&mut waiting, Some(&Timespec::default())).is_ok_and(|count| count > 0)
        && Instant::now() < deadline
    {
        thread::sleep(LOOK);
    }
}

/// Shuts the reading half of every connection that was accepted at `port`; returns how many
/// descriptors such connections have.
///
/// As with a listener of our own: what has arrived is still read and answered, and then comes the
/// end of the input.
///
/// # Errors
/// If no descriptor is free, or if a sandbox forbids the call.
pub fn hang_up(port: u16) -> io::Result<usize> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    let mut found = 0;
    for entry in fs::read_dir(FOLDER)? {
        let entry = entry?;
        let link = fs::read_link(entry.path()).unwrap_or_default();
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(number) = number.filter(|_| link.to_string_lossy().starts_with("socket:")) else {
            continue;
        };
        let stream = match pidfd_getfd(&own, number, PidfdGetfdFlags::empty()) {
            Ok(socket) => TcpStream::from(socket),
            // Closed in the meantime.
            Err(Errno::BADF) => continue,
            Err(error) => return Err(error.into()),
        };
        // The listener has no peer, and whatever else is a socket here has another port.
        let is_client = stream.local_addr().is_ok_and(|own| own.port() == port);
        if is_client && stream.peer_addr().is_ok() {
            let _ = stream.shutdown(Shutdown::Read);
            found += 1;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn listener() -> TcpListener {
        TcpListener::bind(("127.0.0.1", 0)).expect("a free port")
    }

    #[test]
    fn a_lent_descriptor_is_seen_to_close() {
        let listener = listener();
        let lent = Lent::note(&listener).expect("listed");
        let twin = listener.try_clone().expect("duplicates");
        assert!(lent.is_open());
        drop(listener);
        assert!(!lent.is_open());
        drop(twin);
    }

    #[test]
    fn a_thread_that_reads_is_woken_through_its_socket() {
        let listener = listener();
        let address = listener.local_addr().expect("bound");
        let _client = TcpStream::connect(address).expect("accepted");
        let (mut accepted, _) = listener.accept().expect("a client");
        let reader = thread::spawn(move || accepted.read(&mut [0]));
        assert!(hang_up(address.port()).expect("permitted") > 0);
        assert_eq!(reader.join().expect("no panic").expect("an end"), 0);
    }

    #[test]
    fn a_backlog_is_waited_for_until_the_deadline() {
        let listener = listener();
        let address = listener.local_addr().expect("bound");
        let now = Instant::now();
        await_empty_backlog(&listener, now + Duration::from_secs(10));
        assert!(now.elapsed() < Duration::from_secs(5));
        let _client = TcpStream::connect(address).expect("in the backlog");
        let deadline = Instant::now() + Duration::from_millis(50);
        await_empty_backlog(&listener, deadline);
        assert!(Instant::now() >= deadline);
    }
}
