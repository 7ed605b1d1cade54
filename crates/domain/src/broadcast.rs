//! What the service says of itself.

use contract::shapes::Event;
use serde_json::{Map, Value};

/// State that a broadcast tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct State {
    /// Keys in the store.
    pub keys: u64,
    /// Points in the store.
    pub points: u64,
    /// Deliveries counted so far, duplicates and invalid ones left out.
    pub ingested: u64,
}

/// The event that is published on the state exchange under the instance's name.
#[must_use]
pub fn event(name: &str, state: State) -> Event {
    let data = Map::from_iter([
        ("keys".to_owned(), Value::from(state.keys)),
        ("points".to_owned(), Value::from(state.points)),
        ("ingested".to_owned(), Value::from(state.ingested)),
    ]);
    Event {
        key: name.to_owned(),
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broadcast_is_an_event_like_any_other() {
        let event = event(
            "history",
            State {
                keys: 1,
                points: 2,
                ingested: 3,
            },
        );
        let json = serde_json::to_string(&event).expect("serialises");
        assert_eq!(
            json,
            r#"{"key":"history","data":{"ingested":3,"keys":1,"points":2}}"#
        );
        assert!(crate::event::reading(event).is_ok());
    }
}
