//! Keys of sensors.

use contract::limits::MAX_KEY_BYTES;

/// Whether `key` is a key: `^[A-Za-z0-9._~:-]{1,128}$`.
#[must_use]
pub fn is_valid(key: &str) -> bool {
    (1..=MAX_KEY_BYTES).contains(&key.len()) && key.bytes().all(is_allowed)
}

/// What is said of a key that is none.
pub const REQUIREMENT: &str = "must have 1 to 128 of the characters A-Z a-z 0-9 . _ ~ : -";

const fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b':' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_limits_are_inclusive() {
        assert!(is_valid("a"));
        assert!(is_valid(&"a".repeat(128)));
        assert!(!is_valid(""));
        assert!(!is_valid(&"a".repeat(129)));
    }

    proptest! {
        #[test]
        fn every_string_of_allowed_characters_is_a_key(key in "[A-Za-z0-9._~:-]{1,128}") {
            prop_assert!(is_valid(&key));
        }

        #[test]
        fn one_foreign_character_spoils_a_key(
            head in "[a-z]{0,5}", foreign in "[^A-Za-z0-9._~:-]", tail in "[a-z]{0,5}"
        ) {
            let key = format!("{head}{foreign}{tail}");
            prop_assert!(!is_valid(&key));
        }
    }
}
