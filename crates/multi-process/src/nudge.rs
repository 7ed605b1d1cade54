//! Frees connections that tiny_http's thread pool left waiting.
//!
//! Particular to processes: which process accepts a connection is the kernel's choice, so a probe
//! over the network would reach any of them; each process looks at its own descriptors and threads
//! in place of that.
//!
//! The defect (tiny_http 0.12, `util/task_pool.rs`): a thread that was woken for a connection counts
//! as idle until it has run, so a burst of connections is queued for more threads than there are, and
//! the rest waits until some other connection ends.
//! The cure from outside: a connection that is opened and closed at once makes the pool start a
//! thread or wake one, which then takes a waiting connection.

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use crate::metrics::connections_of;

/// Time between two looks while clients keep coming.
const INTERVAL: Duration = Duration::from_millis(20);
/// Time for a nudge to be accepted before the next look.
const SETTLE: Duration = Duration::from_millis(1);
/// Looks in a row; the next request starts another round.
const ROUNDS: usize = 50;
/// Clients remembered as already looked after.
const REMEMBERED: usize = 4096;

/// Looks after waiting connections.
///
/// A look follows only the first request of a client: a burst that leaves someone waiting consists of
/// new clients, some of which are served.
/// An idle process never looks.
/// Counting connections costs some microseconds for each, so a look counts them only if there are
/// other descriptors or threads than there were when nobody waited.
#[derive(Debug)]
pub struct Nudge {
    address: SocketAddr,
    /// Processes that accept from the same socket.
    siblings: usize,
    /// Threads of this process outside the pool.
    other_threads: usize,
    /// Clients whose first request was noted.
    known: HashSet<SocketAddr>,
    /// When to look next.
    due: Option<Instant>,
    /// What there was when last nobody waited.
    quiet: Option<Held>,
}

/// How many descriptors and threads this process has, which the kernel tells without listing them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    /// 0 before Linux 6.2, which does not tell.
    descriptors: u64,
    threads: u64,
}

impl Held {
    /// A folder has two links and one from each folder in it, and there is one for each thread.
    fn now() -> Self {
        let about = |folder| fs::metadata(folder).ok();
        Self {
            descriptors: about("/proc/self/fd").map_or(0, |it| it.len()),
            threads: about("/proc/self/task").map_or(0, |it| it.nlink().saturating_sub(2)),
        }
    }
}

impl Nudge {
    /// For a server on `address` that `siblings` processes accept from; `other_threads` of this
    /// process do not belong to the thread pool.
    pub fn new(address: SocketAddr, siblings: usize, other_threads: usize) -> Self {
        let address = SocketAddr::new(loopback_of(address), address.port());
        Self {
            address,
            siblings,
            other_threads,
            known: HashSet::new(),
            due: None,
            quiet: None,
        }
    }

    /// Notes a request; the first of a client makes a look due.
    pub fn seen(&mut self, client: Option<&SocketAddr>) {
        let Some(client) = client else { return };
        if self.known.contains(client) {
            return;
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(*client);
        // Not put off by further clients: a steady stream of them must not delay the look for ever.
        self.due.get_or_insert_with(|| Instant::now() + INTERVAL);
    }

    /// When the next look is due; `None` if nobody new came.
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Looks, and frees whoever waits.
    pub fn look(&mut self) {
        self.due = None;
        for _ in 0..ROUNDS {
            // Read first: who comes meanwhile makes the next look differ.
            let held = Held::now();
            if held.descriptors > 0 && self.quiet == Some(held) {
                return;
            }
            let waiting = self.waiting(held);
            if waiting == 0 {
                self.quiet = Some(held);
                return;
            }
            // The kernel wakes the accepting processes in turn: so many nudges reach each of them.
            log::debug!("{waiting} connections wait for a thread; nudging");
            for _ in 0..waiting * self.siblings {
                drop(TcpStream::connect_timeout(
                    &self.address,
                    Duration::from_millis(100),
                ));
            }
            std::thread::sleep(SETTLE);
        }
    }

    /// Connections that no thread of the pool has taken: the pool has one thread for each that is
    /// taken, for as long as it lasts.
    fn waiting(&self, held: Held) -> usize {
        let threads = usize::try_from(held.threads).unwrap_or(usize::MAX);
        connections_of(std::process::id())
            .saturating_sub(threads.saturating_sub(self.other_threads))
    }
}

/// Where a server on `address` is reached from its own machine.
fn loopback_of(address: SocketAddr) -> std::net::IpAddr {
    match address.ip() {
        ip if !ip.is_unspecified() => ip,
        ip if ip.is_ipv4() => Ipv4Addr::LOCALHOST.into(),
        _ => Ipv6Addr::LOCALHOST.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, sync::Barrier, thread};

    use super::*;

    #[test]
    fn only_a_new_client_makes_a_look_due() {
        let client = SocketAddr::from(([127, 0, 0, 1], 5));
        let mut nudge = Nudge::new(client, 1, 0);
        nudge.seen(Some(&client));
        assert!(nudge.due().is_some());
        nudge.due = None;
        nudge.seen(Some(&client));
        assert!(nudge.due().is_none());
    }

    #[test]
    fn the_kernel_tells_how_many_descriptors_and_threads_there_are() {
        let before = Held::now();
        let files: Vec<_> = (0..64).map(|_| File::open("/dev/null")).collect();
        let all_run = Barrier::new(33);
        thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| (all_run.wait(), all_run.wait()));
            }
            all_run.wait();
            let after = Held::now();
            all_run.wait();
            // Other tests come and go meanwhile.
            assert!(before.descriptors == 0 || after.descriptors > before.descriptors + 32);
            assert!(after.threads > before.threads + 16, "{after:?}");
        });
        drop(files);
    }
}
