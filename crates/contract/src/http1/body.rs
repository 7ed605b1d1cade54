//! Finds the end of a body, and takes its bytes out of their framing.

use super::Framing;
use crate::{Problem, ProblemKind, limits::HEAD_LIMIT};

/// Hexadecimal digits that a chunk's size may have.
const SIZE_DIGITS_MAX: u8 = 16;

/// A body that is being read.
///
/// Fed with bytes in pieces of any size; where they are cut makes no difference, because every
/// byte is met in a state that says what may come now.
#[derive(Debug)]
pub struct Body {
    next: Next,
    bytes: Vec<u8>,
    limit: usize,
    /// Bytes of extensions and trailers so far: ignored, but not without end.
    ignored: usize,
}

/// What comes next (RFC 9112, section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// So many bytes, and then nothing.
    Rest(u64),
    /// Digits of a chunk's size, or its end.
    Size { size: u64, digits: u8 },
    /// What may stand behind a size, up to the line's end.
    Extension { size: u64 },
    /// The line feed behind a size.
    SizeFeed { size: u64 },
    /// So many bytes of a chunk.
    Data(u64),
    /// The carriage return behind a chunk.
    DataReturn,
    /// The line feed behind that.
    DataFeed,
    /// A trailer line, or the empty line that ends the body.
    TrailerStart,
    /// The rest of a trailer line.
    Trailer,
    /// The line feed behind a trailer line.
    TrailerFeed,
    /// The line feed of the empty line.
    LastFeed,
    /// The next request.
    Nothing,
}

impl Body {
    /// A body of which nothing was read, and which may have `limit` bytes.
    #[must_use]
    pub const fn new(framing: Framing, limit: usize) -> Self {
        let next = match framing {
            Framing::Length(length) => Next::Rest(length),
            Framing::Chunked => Next::Size { size: 0, digits: 0 },
        };
        Self {
            next,
            bytes: Vec::new(),
            limit,
            ignored: 0,
        }
    }

    /// Whether everything is there.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        matches!(self.next, Next::Rest(0) | Next::Nothing)
    }

    /// Takes what belongs to the body from the start of `bytes`, and returns how many bytes that
    /// were; the rest is the next request.
    ///
    /// # Errors
    /// 400 if the framing is broken, 413 as soon as it is clear that the body is longer than the
    /// limit, 431 if the extensions and trailers of its chunks are longer than a head may be.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, Problem> {
        let mut taken = 0;
        while taken < bytes.len() && !self.is_complete() {
            taken += match self.next {
                Next::Rest(left) | Next::Data(left) => self.copy(left, &bytes[taken..])?,
                _ => {
                    self.next = self.behind(bytes[taken])?;
                    1
                }
            };
        }
        Ok(taken)
    }

    /// What was read.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Copies up to `left` bytes of data.
    fn copy(&mut self, left: u64, bytes: &[u8]) -> Result<usize, Problem> {
        self.check_room(left)?;
        let count = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.bytes.extend_from_slice(&bytes[..count]);
        let left = left - count as u64;
        self.next = match self.next {
            Next::Data(_) if left == 0 => Next::DataReturn,
            Next::Data(_) => Next::Data(left),
            _ => Next::Rest(left),
        };
        Ok(count)
    }

    /// What comes behind a byte of the framing.
    fn behind(&mut self, byte: u8) -> Result<Next, Problem> {
        match (self.next, byte) {
            (Next::Size { size, digits }, _)
                if byte.is_ascii_hexdigit() && digits < SIZE_DIGITS_MAX =>
            {
                Ok(Next::Size {
                    size: size * 16 + hexadecimal(byte),
                    digits: digits + 1,
                })
            }
            (Next::Size { digits: 0, .. }, _) => Err(broken()),
            (Next::Size { size, .. } | Next::Extension { size }, b'\r') => {
                Ok(Next::SizeFeed { size })
            }
            (Next::Size { size, .. }, b';' | b' ' | b'\t') => Ok(Next::Extension { size }),
            (Next::SizeFeed { size: 0 }, b'\n') | (Next::TrailerFeed, b'\n') => {
                Ok(Next::TrailerStart)
            }
            (Next::SizeFeed { size }, b'\n') => self.check_room(size).map(|()| Next::Data(size)),
            (Next::DataReturn, b'\r') => Ok(Next::DataFeed),
            (Next::DataFeed, b'\n') => Ok(Next::Size { size: 0, digits: 0 }),
            (Next::TrailerStart, b'\r') => Ok(Next::LastFeed),
            (Next::Trailer, b'\r') => Ok(Next::TrailerFeed),
            (Next::LastFeed, b'\n') => Ok(Next::Nothing),
            (Next::Extension { size }, _) if byte != b'\n' => {
                self.ignore().map(|()| Next::Extension { size })
            }
            (Next::TrailerStart | Next::Trailer, _) if byte != b'\n' => {
                self.ignore().map(|()| Next::Trailer)
            }
            _ => Err(broken()),
        }
    }

    /// Whether `more` bytes of data may follow.
    fn check_room(&self, more: u64) -> Result<(), Problem> {
        if more <= (self.limit - self.bytes.len()) as u64 {
            return Ok(());
        }
        let detail = format!("the body may have {} bytes", self.limit);
        Err(Problem::new(ProblemKind::BodyTooLarge, detail))
    }

    fn ignore(&mut self) -> Result<(), Problem> {
        self.ignored += 1;
        if self.ignored <= HEAD_LIMIT {
            return Ok(());
        }
        let detail = "the chunks have more extensions and trailers than data";
        Err(Problem::new(ProblemKind::HeadTooLarge, detail))
    }
}

fn broken() -> Problem {
    Problem::new(ProblemKind::BadRequest, "the body's chunks are malformed")
}

/// The value of a hexadecimal digit.
const fn hexadecimal(digit: u8) -> u64 {
    let value = match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    };
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `bytes` in pieces; what was read, and how many bytes were left over.
    fn feed(framing: Framing, limit: usize, bytes: &[u8], piece: usize) -> Result<Fed, u16> {
        let mut body = Body::new(framing, limit);
        let mut taken = 0;
        for piece in bytes.chunks(piece) {
            let count = body.take(piece).map_err(|problem| problem.kind.status())?;
            taken += count;
            if count < piece.len() {
                break;
            }
        }
        let complete = body.is_complete();
        Ok((body.into_bytes(), bytes.len() - taken, complete))
    }

    /// Bytes of the body, bytes behind it, and whether it was complete.
    type Fed = (Vec<u8>, usize, bool);

    #[test]
    fn a_body_ends_where_its_framing_says() {
        let length = |n, bytes| feed(Framing::Length(n), 9, bytes, 99);
        assert_eq!(length(3, b"abcGET"), Ok((b"abc".to_vec(), 3, true)));
        assert_eq!(length(3, b"ab"), Ok((b"ab".to_vec(), 0, false)));
        assert_eq!(length(0, b"GET"), Ok((Vec::new(), 3, true)));
        let chunked = |bytes| feed(Framing::Chunked, 99, bytes, 99);
        let bytes = b"3\r\nabc\r\n0A;x=\"y\"\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET";
        assert_eq!(chunked(bytes), Ok((b"abc0123456789".to_vec(), 3, true)));
        assert_eq!(chunked(b"0\r\n\r\n"), Ok((Vec::new(), 0, true)));
        assert_eq!(chunked(b"0\r\n"), Ok((Vec::new(), 0, false)));
    }

    #[test]
    fn broken_chunks_are_refused() {
        for bytes in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"3\nabc",
            b"3\r\nabcd",
            b"3\r\nabc\n",
            b"3 \rabc",
            b"3;x\nabc",
            b"0\r\nTrailer\n",
            b"00000000000000000\r\n",
        ] {
            assert_eq!(feed(Framing::Chunked, 99, bytes, 99), Err(400));
        }
    }

    #[test]
    fn a_body_is_bounded_with_its_framing() {
        assert_eq!(feed(Framing::Length(5), 4, b"a", 1), Err(413));
        assert_eq!(feed(Framing::Chunked, 4, b"3\r\nabc\r\n2\r\n", 1), Err(413));
        let huge = b"ffffffffffffffff\r\n";
        assert_eq!(feed(Framing::Chunked, 4, huge, 1), Err(413));
        let extension = [b"1;", "x".repeat(HEAD_LIMIT + 1).as_bytes()].concat();
        assert_eq!(feed(Framing::Chunked, 4, &extension, 99), Err(431));
        let trailer = [b"0\r\n", "x".repeat(HEAD_LIMIT + 1).as_bytes()].concat();
        assert_eq!(feed(Framing::Chunked, 4, &trailer, 99), Err(431));
    }

    proptest! {
        #[test]
        fn a_chunked_body_reads_the_same_however_it_is_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..8),
            piece in 1..64_usize, behind in prop::collection::vec(any::<u8>(), 0..20)
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            bytes.extend(&behind);
            let whole = feed(Framing::Chunked, 999, &bytes, usize::MAX);
            prop_assert_eq!(&whole, &Ok((chunks.concat(), behind.len(), true)));
            prop_assert_eq!(feed(Framing::Chunked, 999, &bytes, piece), whole);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic_or_differ(
            bytes in "[0-9a-fA-F;x \r\n]{0,60}", piece in 1..9_usize
        ) {
            let whole = feed(Framing::Chunked, 30, bytes.as_bytes(), usize::MAX);
            prop_assert_eq!(feed(Framing::Chunked, 30, bytes.as_bytes(), piece), whole);
        }
    }
}
