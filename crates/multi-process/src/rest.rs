//! Serves REST: takes requests, answers them through the domain, counts them.
//!
//! Particular to processes: several processes accept from one listener, and the kernel shares the
//! clients out among them. What takes the requests off the wire is exchangeable ([`tiny`], the library,
//! and [`listener`], sockets of the standard library), so that a reader can tell what is the model's
//! doing and what is the library's; what answers them ([`api`]) is the same.

pub mod api;
mod body;
mod connection;
pub mod listener;
mod reject;
pub mod sockets;
#[cfg(test)]
mod tests;
pub mod tiny;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

/// Connections that wait to be accepted; more are refused by the kernel.
const BACKLOG: i32 = 1024;
/// Time from a change of the figures to their report.
const REPORT_DELAY: Duration = Duration::from_millis(250);
/// Time until a report that nobody took is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Binds the listener ourselves, because the library cannot set `TCP_NODELAY`: accepted sockets
/// inherit it, and without it an answer beyond 1 KiB (two writes) waits 40 ms for a delayed ack.
///
/// # Errors
/// If the address is taken or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Raises the limit of descriptors as far as this process may: most systems begin with 1,024, and a
/// thousand clients need more than that, two for each with the library.
pub fn lift_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::warn!("the limit of descriptors stays as it is: {error}");
    }
}
