//! Carries frames over a Unix socket: a length, then as many bytes.
//!
//! Particular to processes: a stream has no boundaries, so they are written into it.

use std::{
    io::{self, Read, Write},
    ops::Range,
    os::unix::net::UnixStream,
    time::Duration,
};

use super::PATIENCE;

/// Longest frame in bytes: a series query of 100 fields with 10,000 points of 48 bytes, and room to
/// spare.
const MAX_FRAME: usize = 64 << 20;
/// First size of a frame buffer: most frames fit, and an idle process keeps little memory.
const BUFFER: usize = 8 << 10;
/// What a buffer may keep behind a long frame: one query must not cost every process its answer's
/// size for ever.
const KEPT: usize = 1 << 20;
/// Head of a frame: the length of what follows, little-endian.
const HEAD: usize = 4;

/// A connection that carries frames; the buffers live as long as it does, so that a turn needs no
/// allocation of its own.
#[derive(Debug)]
pub struct Wire {
    /// Blocking: there is nothing else to do for the thread that reads it.
    stream: UnixStream,
    /// Frames that were pushed and not yet sent.
    outgoing: Vec<u8>,
    /// Always of its full length, so that no read has to clear it first.
    incoming: Vec<u8>,
    /// What of `incoming` was received and not yet taken.
    pending: Range<usize>,
    /// The read timeout as it is set at present.
    patience: Option<Duration>,
}

impl Wire {
    /// Frames over `stream`.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        // Nobody may stop this process by not reading.
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            outgoing: Vec::new(),
            incoming: vec![0; BUFFER],
            pending: 0..0,
            patience: None,
        })
    }

    /// Adds a frame to what is sent next.
    pub fn push(&mut self, tag: u8, parts: &[&[u8]]) -> io::Result<()> {
        let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
        let length = u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.outgoing.extend_from_slice(&length.to_le_bytes());
        self.outgoing.push(tag);
        for part in parts {
            self.outgoing.extend_from_slice(part);
        }
        Ok(())
    }

    /// Sends everything with a single `write`: two would wake the other side twice.
    pub fn flush(&mut self) -> io::Result<()> {
        let result = self.stream.write_all(&self.outgoing);
        self.outgoing.clear();
        self.outgoing.shrink_to(KEPT);
        result
    }

    /// Takes one frame; what one `write` has sent comes with a single `read`, so only the first of
    /// several frames costs a system call.
    /// `patience` bounds the wait for its beginning; its rest has to follow at once.
    pub fn receive(&mut self, patience: Option<Duration>) -> io::Result<&[u8]> {
        let mut patience = patience;
        let end = loop {
            match self.frame_end()? {
                Some(end) => break end,
                None => self.fill(patience)?,
            }
            patience = Some(PATIENCE);
        };
        let frame = self.pending.start + HEAD..end;
        self.pending.start = end;
        Ok(&self.incoming[frame])
    }

    /// Whether the next frame is here already.
    pub fn has_frame(&self) -> bool {
        self.frame_end().is_ok_and(|end| end.is_some())
    }

    /// Where the next frame ends, if it is here already.
    fn frame_end(&self) -> io::Result<Option<usize>> {
        let end = frame_end(&self.incoming[self.pending.clone()])?;
        let end = end.map(|end| self.pending.start + end);
        Ok(end.filter(|end| *end <= self.pending.end))
    }

    /// Receives more bytes, behind those that are pending.
    fn fill(&mut self, patience: Option<Duration>) -> io::Result<()> {
        self.set_patience(patience)?;
        self.incoming.copy_within(self.pending.clone(), 0);
        self.pending = 0..self.pending.len();
        if self.incoming.len() > KEPT && self.pending.is_empty() {
            self.incoming.truncate(BUFFER);
            self.incoming.shrink_to_fit();
        }
        // A begun frame that is longer than the buffer makes it grow; the head is checked already.
        let needed = frame_end(&self.incoming[self.pending.clone()])?.unwrap_or_default();
        if self.incoming.len() < needed {
            self.incoming.resize(needed, 0);
        }
        loop {
            match self.stream.read(&mut self.incoming[self.pending.end..]) {
                // A signal interrupts a read that has a timeout, whatever its handler says (signal(7)):
                // the request in hand is answered all the same.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                result => {
                    self.pending.end += result?;
                    return Ok(());
                }
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_without_end_is_refused_by_its_head() {
        assert!(frame_end(&u32::MAX.to_le_bytes()).is_err());
        assert!(frame_end(&0_u32.to_le_bytes()).is_err());
        assert_eq!(frame_end(&[1, 0]).expect("incomplete"), None);
        assert_eq!(frame_end(&5_u32.to_le_bytes()).expect("complete"), Some(9));
    }
}
