//! Events are decoded by the rules as they are read a second time.

use std::fmt::{self, Formatter};

use contract::shapes::Event;
use domain::{Reading, decode, flatten::Fields};
use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};

use super::{any_object, flattened, is_key};
use crate::campaign::{self, Bytes, Seen, nearly};

/// Longest message in bytes, from the contract's prose.
const LONGEST: usize = 256 * 1024;

/// The members of an object as they stand in the text: twice is twice.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, to: &mut Formatter<'_>) -> fmt::Result {
                to.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Collect)
    }
}

/// The reading of a body, or nothing if it is no event.
fn reading(body: &[u8]) -> Option<Reading> {
    let Members(mut members) = serde_json::from_slice(body).ok()?;
    members.sort_by(|one, other| one.0.cmp(&other.0));
    let [
        (data_name, Value::Object(data)),
        (key_name, Value::String(key)),
    ] = &members[..]
    else {
        return None;
    };
    let is_event = data_name == "data" && key_name == "key" && is_key(key);
    let fits = body.len() <= LONGEST;
    (is_event && fits).then_some(())?;
    Some(Reading {
        key: key.clone(),
        fields: flattened(data)?,
    })
}

/// Whether two readings mean the same; the parser of numbers may err in the last digit.
fn mean_the_same(one: &Fields, other: &Fields) -> bool {
    let close = |one: f64, other: f64| (one - other).abs() <= one.abs() * 4.0 * f64::EPSILON;
    let mut pairs = one.iter().zip(other);
    one.len() == other.len() && pairs.all(|(a, b)| a.0 == b.0 && close(*a.1, *b.1))
}

/// The text of an event, or of what might be taken for one.
fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let key = prop_oneof![6 => "[A-Za-z0-9._~:-]{1,9}", 1 => ".{0,3}"];
    (key, any_object(), 0..24_u8).prop_map(|(key, data, shape)| {
        let (key, data) = (json!(key), json!(data));
        let text = match shape {
            0 => format!("[{key},{data}]"),
            1 => format!(r#"{{"key":{key},"key":{key},"data":{data}}}"#),
            2 => format!(r#"{{"key":{key},"data":{data},"data":{data}}}"#),
            3 => format!(r#"{{"key":{key},"data":{data},"more":1}}"#),
            4 => format!(r#"{{"key":{key},"data":{{"a":{data},"a":2,"b":{data}}}}}"#),
            5 => format!(r#"{{"key":{key},"data":{{"a":{}}}}}"#, "9".repeat(400)),
            6 => format!(r#"{{"key":{key},"data":{{"a":0.{}}}}}"#, "7".repeat(400)),
            7 => format!(
                r#"{{"key":{key},"data":{}{}}}"#,
                r#"{"a":"#.repeat(200),
                "}".repeat(200)
            ),
            8 => format!(r#"{{"key":{key},"data":{{"a":{}}}}}"#, "[".repeat(5_000)),
            9 => format!(r#"{{"data":{data},"key":{key}}}{}"#, " ".repeat(LONGEST)),
            10..15 => format!(" {{ \"data\" :\n{data} ,\t\"key\":{key}}}\r\n"),
            _ => format!(r#"{{"key":{key},"data":{data}}}"#),
        };
        text.into_bytes()
    })
}

#[test]
fn an_event_is_decoded_as_the_naive_reading_has_it_and_means_the_same_when_written_again() {
    campaign::run("event", nearly(any_text()), |Bytes(body)| {
        let decoded = decode(&body).ok();
        prop_assert_eq!(&decoded, &reading(&body));
        let Some(decoded) = decoded else {
            return Ok(Seen::Refused);
        };
        let event: Event = serde_json::from_slice(&body).expect("it was decoded");
        let again = serde_json::to_vec(&event).expect("an event serialises");
        // Written without its white space and exponents it may be longer than it was.
        if again.len() <= LONGEST {
            let again = decode(&again).expect("our own text");
            prop_assert_eq!(&again.key, &decoded.key);
            prop_assert!(mean_the_same(&again.fields, &decoded.fields), "{:?}", again);
        }
        Ok(Seen::Accepted)
    });
}
