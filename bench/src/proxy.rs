//! A TCP proxy on loopback that can fall silent: what a peer looks like whose network is gone.
//!
//! Nothing else shows that fault: a broker that is stopped closes its sockets, and a service that
//! only ever saw that would never miss a heartbeat.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Longest time until a pump notices that something was asked of it; adds nothing to the delay of
/// the bytes, which wake it at once.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes that are passed on at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// A running proxy; dropping it closes its connections and its port.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    silent: AtomicBool,
    stopping: AtomicBool,
    /// Clients so far.
    accepted: AtomicU32,
    /// Both ends of every connection so far; closed ones do no harm.
    ends: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Listens on a free port of the loopback interface and passes everything to `upstream`.
    ///
    /// # Errors
    /// If there is no free port.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            silent: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            accepted: AtomicU32::new(0),
            ends: Mutex::new(Vec::new()),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || accept(&listener, &accepting))?;
        Ok(Self {
            address,
            shared,
            acceptor: Some(acceptor),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u32 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Passes nothing on any more, in either direction and for new connections as well. What is
    /// sent meanwhile is kept, and the sockets stay open.
    pub fn fall_silent(&self) {
        self.shared.silent.store(true, Ordering::Relaxed);
    }

    /// Passes on what was kept, and everything after it.
    pub fn speak(&self) {
        self.shared.silent.store(false, Ordering::Relaxed);
    }

    /// Closes every connection; new ones are served.
    pub fn cut(&self) {
        self.shared.close_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.close_all();
        // Wakes the acceptor, which then sees that it is to stop.
        let woken = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let (Ok(_), Some(acceptor)) = (woken, self.acceptor.take()) {
            // A panic there was told by the thread itself.
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn close_all(&self) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for end in ends.drain(..) {
            // Fails if it is closed already, which is what is wanted.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.is_stopping() {
            return;
        }
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        // A broker that refuses looks the same through the proxy: the connection ends at once.
        if let Err(error) = client.and_then(|client| join_ends(client, shared)) {
            log::debug!("proxy: {error}");
        }
    }
}

/// Connects a client to the upstream, with a thread per direction.
fn join_ends(client: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    let upstream = TcpStream::connect_timeout(&shared.upstream, Duration::from_secs(1))?;
    for end in [&client, &upstream] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(LOOK))?;
    }
    let mut ends = shared.ends.lock().unwrap_or_else(PoisonError::into_inner);
    ends.push(client.try_clone()?);
    ends.push(upstream.try_clone()?);
    drop(ends);
    for (from, to) in [
        (client.try_clone()?, upstream.try_clone()?),
        (upstream, client),
    ] {
        let shared = Arc::clone(shared);
        std::thread::Builder::new()
            .name("proxy-pump".to_owned())
            .spawn(move || pump(from, to, &shared))?;
    }
    Ok(())
}

/// Passes bytes on until either side closes; the end is passed on as well.
fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut bytes = vec![0; BUFFER_BYTES];
    loop {
        let count = match from.read(&mut bytes) {
            Ok(count) => count,
            Err(error) if is_timeout(&error) && !shared.is_stopping() => continue,
            Err(_) => 0,
        };
        // Behind the read: bytes that arrive in the silence wait here, and so does the end.
        while shared.silent.load(Ordering::Relaxed) && !shared.is_stopping() {
            std::thread::sleep(LOOK);
        }
        if count == 0 || to.write_all(&bytes[..count]).is_err() {
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets, for one client after another.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut writer = stream.try_clone().expect("a descriptor is free");
                // Ends with the client.
                let _ = io::copy(&mut &stream, &mut writer);
            }
        });
        address
    }

    fn client(proxy: &Proxy, patience: Duration) -> TcpStream {
        let client = TcpStream::connect(proxy.address()).expect("it listens");
        client.set_read_timeout(Some(patience)).expect("not zero");
        client
    }

    #[test]
    fn bytes_are_kept_in_the_silence_and_come_after_it() {
        let proxy = Proxy::start(echo()).expect("a free port");
        let mut client = client(&proxy, Duration::from_millis(200));
        let mut byte = [0];
        client.write_all(b"a").expect("connected");
        client.read_exact(&mut byte).expect("passed on");
        proxy.fall_silent();
        client.write_all(b"b").expect("the socket stays open");
        assert!(client.read_exact(&mut byte).is_err(), "nothing comes");
        proxy.speak();
        client.set_read_timeout(None).expect("allowed");
        client.read_exact(&mut byte).expect("passed on late");
        assert_eq!(&byte, b"b");
    }

    #[test]
    fn a_cut_ends_connections_but_not_the_proxy() {
        let proxy = Proxy::start(echo()).expect("a free port");
        let mut first = client(&proxy, Duration::from_secs(5));
        first.write_all(b"a").expect("connected");
        first.read_exact(&mut [0]).expect("passed on");
        proxy.cut();
        assert_eq!(first.read(&mut [0]).unwrap_or(0), 0, "closed");
        let mut second = client(&proxy, Duration::from_secs(5));
        second.write_all(b"b").expect("connected");
        second.read_exact(&mut [0]).expect("passed on");
        assert_eq!(proxy.accepted(), 2);
    }
}
