//! Flattening agrees with the rules as they are read a second time.

use domain::flatten::flatten;
use proptest::prelude::*;

use super::{any_object, flattened};
use crate::campaign::{self, Seen};

#[test]
fn flattening_agrees_with_the_naive_reading() {
    campaign::run("flatten", any_object(), |object| {
        let fields = flatten(&object).ok();
        prop_assert_eq!(&fields, &flattened(&object));
        Ok(fields.map_or(Seen::Refused, |_| Seen::Accepted))
    });
}
