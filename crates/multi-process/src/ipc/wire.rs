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
pub(super) const BUFFER: usize = 8 << 10;
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
    incoming: Inbox,
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
            incoming: Inbox::new(),
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

    /// What is sent next.
    #[cfg(test)]
    pub(super) fn outgoing(&self) -> &[u8] {
        &self.outgoing
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
        while !self.incoming.has_frame()? {
            self.set_patience(patience)?;
            self.incoming.fill(&mut self.stream)?;
            patience = Some(PATIENCE);
        }
        Ok(self.incoming.take())
    }

    /// Whether the next frame is here already.
    pub fn has_frame(&self) -> bool {
        self.incoming.has_frame().unwrap_or(false)
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

/// What was received, and the frames in it.
#[derive(Debug)]
pub(super) struct Inbox {
    /// Always of its full length, so that no read has to clear it first.
    bytes: Vec<u8>,
    /// What of `bytes` was received and not yet taken.
    pending: Range<usize>,
}

impl Inbox {
    /// Nothing.
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; BUFFER],
            pending: 0..0,
        }
    }

    /// Bytes of memory that it holds.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the next frame is here; an error if what is here can become none.
    pub(super) fn has_frame(&self) -> io::Result<bool> {
        let end = frame_end(&self.bytes[self.pending.clone()])?;
        Ok(end.is_some_and(|end| end <= self.pending.len()))
    }

    /// Takes the next frame, which must be here.
    pub(super) fn take(&mut self) -> &[u8] {
        let end = frame_end(&self.bytes[self.pending.clone()]);
        let end = end.ok().flatten().expect("the frame is here");
        let frame = self.pending.start + HEAD..self.pending.start + end;
        self.pending.start = frame.end;
        &self.bytes[frame]
    }

    /// Receives more bytes, behind those that are pending.
    pub(super) fn fill(&mut self, from: &mut impl Read) -> io::Result<()> {
        self.bytes.copy_within(self.pending.clone(), 0);
        self.pending = 0..self.pending.len();
        if self.bytes.len() > KEPT && self.pending.is_empty() {
            self.bytes.truncate(BUFFER);
            self.bytes.shrink_to_fit();
        }
        // Twice what has come, and not what a head announces: memory is for bytes that were sent.
        if self.pending.len() == self.bytes.len() {
            self.bytes.resize(2 * self.bytes.len(), 0);
        }
        loop {
            match from.read(&mut self.bytes[self.pending.end..]) {
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
