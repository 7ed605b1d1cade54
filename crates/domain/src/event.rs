//! Decoding of events.

use contract::{limits::MAX_MESSAGE_BYTES, shapes::Event};
use serde::Serialize;

use crate::{
    flatten::{self, Fields},
    key, object,
};

/// An event, decoded and flattened: what the store takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reading {
    /// Sensor.
    pub key: String,
    /// Its values.
    pub fields: Fields,
}

/// Why a message is not an event; it goes to the dead-letter queue.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEvent {
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("{0} bytes are more than {MAX_MESSAGE_BYTES}")]
    TooLong(usize),
    /// Not the JSON of an event.
    #[error("not an event")]
    Json(#[source] serde_json::Error),
    /// The key breaks the rule.
    #[error("key {}", key::REQUIREMENT)]
    Key,
    /// The data is nested too deeply.
    #[error("data")]
    Data(#[source] flatten::TooDeep),
}

/// Decodes a message body.
///
/// # Errors
/// [`InvalidEvent`] says what is wrong; the remedy lies with the publisher.
pub fn decode(body: &[u8]) -> Result<Reading, InvalidEvent> {
    if body.len() > MAX_MESSAGE_BYTES {
        return Err(InvalidEvent::TooLong(body.len()));
    }
    let event: Event = object::parse(body).map_err(InvalidEvent::Json)?;
    reading(event)
}

/// Checks and flattens an event.
///
/// # Errors
/// [`InvalidEvent::Key`] or [`InvalidEvent::Data`].
pub fn reading(event: Event) -> Result<Reading, InvalidEvent> {
    if !key::is_valid(&event.key) {
        return Err(InvalidEvent::Key);
    }
    let fields = flatten::flatten(&event.data).map_err(InvalidEvent::Data)?;
    Ok(Reading {
        key: event.key,
        fields,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_event_becomes_a_reading() {
        let reading = decode(br#"{"key":"s-1","data":{"t":{"c":21.5}}}"#).expect("valid");
        assert_eq!(reading.key, "s-1");
        assert_eq!(reading.fields.get("t/c"), Some(&21.5));
    }

    #[test]
    fn what_is_no_event_is_refused_with_its_reason() {
        for (body, reason) in [
            ("{", "not an event"),
            ("[]", "not an event"),
            (r#"["a",{}]"#, "not an event"),
            (r#"{"key":"a"}"#, "not an event"),
            (r#"{"key":"a","data":{},"more":1}"#, "not an event"),
            (r#"{"key":"a b","data":{}}"#, "key must have"),
        ] {
            let error = decode(body.as_bytes()).expect_err(body).to_string();
            assert!(error.starts_with(reason), "{body}: {error}");
        }
        let long = vec![b' '; MAX_MESSAGE_BYTES + 1];
        assert!(matches!(decode(&long), Err(InvalidEvent::TooLong(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode(&body);
        }
    }
}
