//! Names a connection in the bytes of its `connection.start-ok` frame.
//!
//! For a client library that lets us set one property of a connection, `information`, while
//! operators and tools look for `connection_name`: the property is renamed on its way out.
//! Layout of the frame: AMQP 0-9-1, sections 2.3.5 (frames) and 4.2.5.5 (tables).

/// Value of `information` by which the property is found; never reaches the broker.
pub const PLACEHOLDER: &str = "connection-name-goes-here";
/// Length of a frame's type, channel and size, which precede its payload.
const FRAME_HEAD: usize = 7;
/// Length of the class and method numbers, which precede the table of properties.
const METHOD_HEAD: usize = 4;
/// Length of a length.
const LENGTH: usize = 4;

/// Replaces the property in a `connection.start-ok` frame; `None` if `frame` has no such property.
///
/// Both lengths around it, the frame's and the table's, follow the change; where they cannot, the
/// frame is none of ours either.
#[must_use]
pub fn rename(frame: &[u8], name: &str) -> Option<Vec<u8>> {
    let old = property("information", PLACEHOLDER);
    let new = property("connection_name", name);
    let at = find(frame, &old)?;
    let mut renamed = [&frame[..at], &new, &frame[at + old.len()..]].concat();
    for length_at in [FRAME_HEAD - LENGTH, FRAME_HEAD + METHOD_HEAD] {
        let length = length(&renamed, length_at)?;
        let length = (length + new.len()).checked_sub(old.len())?;
        let length = u32::try_from(length).ok()?.to_be_bytes();
        renamed[length_at..length_at + LENGTH].copy_from_slice(&length);
    }
    Some(renamed)
}

/// Where a property begins in the table of properties: only there, and not within another's value.
fn find(frame: &[u8], wanted: &[u8]) -> Option<usize> {
    let table_at = FRAME_HEAD + METHOD_HEAD;
    let mut at = table_at + LENGTH;
    let end = at + length(frame, table_at)?;
    while at < end {
        let value_at = at + 1 + usize::from(*frame.get(at)?) + 1;
        let next = match *frame.get(value_at - 1)? {
            b'S' | b'F' => value_at + LENGTH + length(frame, value_at)?,
            b't' => value_at + 1,
            // No library of ours sends another type.
            _ => return None,
        };
        if frame.get(at..next)? == wanted {
            return Some(at);
        }
        at = next;
    }
    None
}

/// The length that stands at a place.
fn length(frame: &[u8], at: usize) -> Option<usize> {
    let field = frame.get(at..at + LENGTH)?;
    usize::try_from(u32::from_be_bytes(field.try_into().ok()?)).ok()
}

/// A property in an AMQP table: short string, `S`, long string.
fn property(key: &str, value: &str) -> Vec<u8> {
    let key_length = u8::try_from(key.len()).expect("our keys are short");
    let value_length = u32::try_from(value.len()).expect("a name fits into an argument");
    let mut bytes = vec![key_length];
    bytes.extend(key.as_bytes());
    bytes.push(b'S');
    bytes.extend(value_length.to_be_bytes());
    bytes.extend(value.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(table: &[u8]) -> Vec<u8> {
        let table_length = u32::try_from(table.len()).expect("short");
        let payload = [&[0, 10, 0, 11], &table_length.to_be_bytes()[..], table].concat();
        let length = u32::try_from(payload.len()).expect("short");
        [&[1, 0, 0], &length.to_be_bytes()[..], &payload, &[0xce]].concat()
    }

    #[test]
    fn the_property_is_renamed_and_the_lengths_follow() {
        let (before, behind) = (property("a", "b"), property("z", "y"));
        let with = |middle: Vec<u8>| frame(&[&before[..], &middle, &behind].concat());
        let old = with(property("information", PLACEHOLDER));
        let new = with(property("connection_name", "multi-thread-x-consumer"));
        assert_eq!(rename(&old, "multi-thread-x-consumer"), Some(new));
    }

    #[test]
    fn other_frames_pass_as_they_are() {
        assert_eq!(rename(b"AMQP\0\0\x09\x01", "x"), None);
        assert_eq!(rename(&frame(&property("a", "b")), "x"), None);
    }
}
