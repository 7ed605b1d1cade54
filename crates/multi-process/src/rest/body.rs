//! Reads the bodies of requests, within their limit.

use std::io::Read;

use contract::{Problem, ProblemKind};
use domain::rest;
use tiny_http::Request;

/// Bodies up to this length were read by the library before the request was queued, in bytes.
const BUFFERED_BODY: usize = 1024;

/// The body of a request, read at most once and only if a handler wants it.
pub struct Body<'a> {
    request: &'a mut Request,
    read: bool,
}

impl<'a> Body<'a> {
    /// The body of `request`, not read yet.
    pub fn of(request: &'a mut Request) -> Self {
        Self {
            request,
            read: false,
        }
    }

    /// Reads the whole body, after its head was found acceptable.
    ///
    /// # Errors
    /// 413 or 415 before anything is read, 400 if less comes than was announced.
    pub fn read(&mut self, limit: usize) -> Result<Vec<u8>, Problem> {
        let declared = self.request.body_length();
        let content_type = header(self.request, "Content-Type");
        rest::check_head(content_type, declared.map(|length| length as u64), limit)?;
        let mut body = Vec::with_capacity(declared.unwrap_or_default());
        let mut reader = self.request.as_reader().take(limit as u64 + 1);
        let result = reader.read_to_end(&mut body);
        if body.len() > limit {
            return Err(rest::body_too_large(limit));
        }
        self.read = true;
        match (result, declared) {
            (Ok(length), Some(declared)) if length < declared => Err(incomplete()),
            (Ok(_), _) => Ok(body),
            (Err(_), _) => Err(incomplete()),
        }
    }

    /// Whether something may still come that the library would wait for when the request is
    /// dropped.
    pub fn is_unread(&self) -> bool {
        let pending = match self.request.body_length() {
            Some(length) => length > BUFFERED_BODY || header(self.request, "Expect").is_some(),
            None => header(self.request, "Transfer-Encoding").is_some(),
        };
        pending && !self.read
    }
}

fn incomplete() -> Problem {
    Problem::new(ProblemKind::BadRequest, "the body is incomplete")
}

/// Value of a header; its name is compared without regard to case.
pub fn header<'a>(request: &'a Request, name: &'static str) -> Option<&'a str> {
    let mut headers = request.headers().iter();
    let found = headers.find(|header| header.field.equiv(name))?;
    Some(found.value.as_str())
}
