//! Serves one connection, request by request (`--http std`).
//!
//! Particular to threads: the connection is the thread, and its state is where the thread stands.
//! Requests that were sent without waiting for answers are answered in their order by standing in
//! line, in the socket.

use std::time::Instant;

use contract::{Method, Problem, Reply, http1::Head, reply::REQUEST_ID, routes};

use super::{Api, Call, wire::Wire};

/// A connection with a client.
pub struct Connection<'a> {
    api: Api,
    wire: Wire<'a>,
    /// Largest body in bytes.
    body_limit: usize,
}

impl<'a> Connection<'a> {
    /// A connection before its first request.
    #[must_use]
    pub const fn new(api: Api, wire: Wire<'a>, body_limit: usize) -> Self {
        Self {
            api,
            wire,
            body_limit,
        }
    }

    /// Serves until the client goes, rests for too long or does wrong, or until the service stops.
    pub fn serve(mut self) {
        loop {
            match self.wire.head() {
                Ok(Some(head)) => {
                    if !self.answer(&head) {
                        return;
                    }
                }
                Ok(None) => return,
                Err(problem) => return self.refuse(&problem),
            }
        }
    }

    /// Answers what is no request, or not one that will be handled, and ends the connection.
    pub fn refuse(mut self, problem: &Problem) {
        let started = Instant::now();
        let id = self.api.request_id(None);
        let reply = Reply::problem(problem, &id).with_header(REQUEST_ID, id);
        self.wire.send(&reply, Method::Other, false);
        self.api.count(None, Method::Other, reply.status, started);
        self.wire.linger();
    }

    /// Answers a request; whether there may be another.
    fn answer(&mut self, head: &Head) -> bool {
        let started = Instant::now();
        let (path, query) = head.path_and_query();
        let call = Call {
            method: head.method,
            path,
            query,
            if_none_match: head.if_none_match.as_deref(),
        };
        let id = self.api.request_id(head.request_id.as_deref());
        let (wire, limit) = (&mut self.wire, self.body_limit);
        let reply = self.api.answer(&call, &id, || wire.body(head, limit));
        let in_step = self.wire.is_in_step(limit);
        // Looked at as late as possible: who reads `close` does not send another request in vain.
        let keep_alive = head.keep_alive && in_step && !self.api.is_draining();
        let sent = self.wire.send(&reply, head.method, keep_alive);
        let route = routes::find(path).map(|(route, _)| route);
        self.api.count(route, head.method, reply.status, started);
        if !in_step || (!keep_alive && self.wire.has_more()) {
            self.wire.linger();
        }
        sent && keep_alive
    }
}
