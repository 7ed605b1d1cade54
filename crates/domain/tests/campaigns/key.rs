//! A key is what the rule says, as it is read a second time.

use domain::{key, rest::KeysQuery};
use proptest::prelude::*;

use super::is_key;
use crate::campaign::{self, Seen};

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => "[A-Za-z0-9._~:-]{1,20}",
        2 => "[A-Za-z0-9._~:-]{126,130}",
        1 => "[A-Za-z0-9._~:-]{0,4}(.|%2[fF]|\\.\\./|\\x00)[A-Za-z0-9._~:-]{0,4}",
        1 => ".{0,5}",
    ]
}

#[test]
fn a_key_is_what_the_rule_says_and_a_query_takes_no_other() {
    campaign::run("key", any_text(), |text| {
        let is_valid = key::is_valid(&text);
        prop_assert_eq!(is_valid, is_key(&text));
        if text.contains(['&', '=']) {
            return Ok(Seen::Refused);
        }
        let query = KeysQuery::parse(&format!("after={text}"));
        let after = query.ok().map(|query| query.after);
        let is_taken = is_valid || text.is_empty();
        prop_assert_eq!(after, is_taken.then(|| text.clone()));
        Ok(if is_valid {
            Seen::Accepted
        } else {
            Seen::Refused
        })
    });
}
