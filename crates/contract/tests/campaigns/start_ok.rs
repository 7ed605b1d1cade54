//! Renaming a connection changes one property of one frame, and nothing else.

use contract::start_ok::{PLACEHOLDER, rename};
use proptest::prelude::*;

use crate::campaign::{self, Bytes, Seen, nearly};

/// A property: its name, the type of its value, its value.
type Property = (String, u8, Vec<u8>);

/// The properties of a `connection.start-ok` frame, and what stands behind them; nothing if the
/// frame or the table is malformed.
fn properties(frame: &[u8]) -> Option<(Vec<Property>, &[u8])> {
    let (head, rest) = frame.split_first_chunk::<7>()?;
    let (payload, end) = split(rest, u32::from_be_bytes(head[3..].try_into().ok()?))?;
    (head[..3] == [1, 0, 0] && end == [0xce]).then_some(())?;
    let (method, rest) = payload.split_first_chunk::<4>()?;
    (*method == [0, 10, 0, 11]).then_some(())?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (mut table, behind) = split(rest, u32::from_be_bytes(*length))?;
    let mut properties = Vec::new();
    while let Some((length, rest)) = table.split_first() {
        let (name, rest) = split(rest, u32::from(*length))?;
        let (kind, rest) = rest.split_first()?;
        let (length, rest) = match kind {
            b'S' | b'F' => {
                let (length, rest) = rest.split_first_chunk::<4>()?;
                (u32::from_be_bytes(*length), rest)
            }
            b't' => (1, rest),
            _ => return None,
        };
        let (value, rest) = split(rest, length)?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        properties.push((name, *kind, value.to_vec()));
        table = rest;
    }
    Some((properties, behind))
}

fn split(bytes: &[u8], at: u32) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(usize::try_from(at).ok()?)
}

fn frame(properties: &[Property], behind: &[u8]) -> Vec<u8> {
    let mut table = Vec::new();
    for (name, kind, value) in properties {
        table.push(u8::try_from(name.len()).expect("short"));
        table.extend(name.bytes());
        table.push(*kind);
        if *kind != b't' {
            table.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
        }
        table.extend(value);
    }
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_be_bytes();
    let payload = [&[0, 10, 0, 11], &length(&table)[..], &table, behind].concat();
    [&[1, 0, 0], &length(&payload)[..], &payload, &[0xce]].concat()
}

fn any_property() -> impl Strategy<Value = Property> {
    let value = prop::collection::vec(any::<u8>(), 0..12);
    prop_oneof![
        2 => ("[a-z_]{1,12}", Just(b'S'), value.clone()),
        1 => ("[a-z_]{1,12}", Just(b'F'), value),
        1 => ("[a-z_]{1,12}", Just(b't'), prop::collection::vec(0..2_u8, 1)),
        2 => Just(("information".to_owned(), b'S', PLACEHOLDER.into())),
    ]
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let behind = prop::collection::vec(any::<u8>(), 0..20);
    let properties = prop::collection::vec(any_property(), 0..5);
    (properties, behind).prop_map(|(properties, behind)| frame(&properties, &behind))
}

#[test]
fn one_property_is_renamed_and_everything_else_stays() {
    let inputs = (nearly(any_frame()), "[a-z.-]{0,300}");
    campaign::run("start-ok", inputs, |(Bytes(bytes), name)| {
        let renamed = rename(&bytes, &name);
        let Some((mut expected, behind)) = properties(&bytes) else {
            // Not a frame that a library would send; whatever becomes of it, it is no panic.
            return Ok(Seen::Refused);
        };
        let placed = |it: &&mut Property| {
            it.0 == "information" && it.1 == b'S' && it.2 == PLACEHOLDER.as_bytes()
        };
        let Some(property) = expected.iter_mut().find(placed) else {
            prop_assert_eq!(renamed, None);
            return Ok(Seen::Refused);
        };
        *property = ("connection_name".to_owned(), b'S', name.into_bytes());
        let renamed = renamed.expect("it has the property");
        prop_assert_eq!(properties(&renamed), Some((expected, behind)));
        Ok(Seen::Accepted)
    });
}
