//! The bare library beside threads and processes: tiny_http with `TCP_NODELAY`, one fixed body.
//!
//! usage: `bare-tiny-http BODY WORKERS`; prints `listening on http://ADDRESS` and serves
//! until killed.

use std::{io::Write, net::SocketAddr, sync::Arc, thread};

use socket2::{Domain, Socket, Type};
use tiny_http::{Header, Response, Server};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let body = arguments.next().unwrap_or_default().into_bytes();
    let workers: usize = arguments.next().map_or(Ok(4), |text| text.parse())?;
    // Accepted sockets inherit the option; tiny_http offers no way to set it later.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(1024)?;
    let server = Server::from_listener(std::net::TcpListener::from(socket), None)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    println!("listening on http://{}", server.server_addr());
    std::io::stdout().flush()?;
    let server = Arc::new(server);
    let threads: Vec<_> = (0..workers)
        .map(|_| {
            let (server, body) = (Arc::clone(&server), body.clone());
            thread::spawn(move || serve(&server, &body))
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("a worker never panics"));
    Ok(())
}

fn serve(server: &Server, body: &[u8]) {
    let json = Header::from_bytes("Content-Type", "application/json").expect("a valid header");
    for request in server.incoming_requests() {
        // A client that has gone away is no fault of the server.
        let _ = request.respond(Response::from_data(body).with_header(json.clone()));
    }
}
