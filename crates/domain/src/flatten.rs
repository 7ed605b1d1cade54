//! Flattening of nested values into paths and numbers.

use std::collections::BTreeMap;

use contract::limits::MAX_DEPTH;
use serde_json::{Map, Value};

/// Flattened values: path → number, sorted by path.
pub type Fields = BTreeMap<String, f64>;

/// The object is nested more deeply than [`MAX_DEPTH`] levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nested more deeply than {MAX_DEPTH} levels")]
pub struct TooDeep;

/// Flattens an object: nested names joined by `/`, list indices as names, `true` → 1, `false` → 0,
/// numeric strings → numbers; what is not a finite number is dropped.
///
/// If two values have the same path (`{"a/b":1,"a":{"b":2}}`), the later in the sorted order of the
/// object's names wins; JSON itself leaves such a case open.
///
/// # Errors
/// [`TooDeep`] if an object or list lies more than [`MAX_DEPTH`] levels deep.
pub fn flatten(object: &Map<String, Value>) -> Result<Fields, TooDeep> {
    let mut fields = Fields::new();
    let mut path = String::new();
    for (name, value) in object {
        descend(&mut fields, &mut path, name, value, 1)?;
    }
    Ok(fields)
}

/// Visits `value` at `path/name`; `depth` counts the containers around it.
fn descend(
    fields: &mut Fields,
    path: &mut String,
    name: &str,
    value: &Value,
    depth: usize,
) -> Result<(), TooDeep> {
    let parent = path.len();
    if depth > 1 {
        path.push('/');
    }
    path.push_str(name);
    match value {
        Value::Object(_) | Value::Array(_) if depth >= MAX_DEPTH => return Err(TooDeep),
        Value::Object(children) => {
            for (name, child) in children {
                descend(fields, path, name, child, depth + 1)?;
            }
        }
        Value::Array(children) => {
            for (index, child) in children.iter().enumerate() {
                descend(fields, path, &index.to_string(), child, depth + 1)?;
            }
        }
        leaf => {
            if let Some(number) = number(leaf) {
                fields.insert(path.clone(), number);
            }
        }
    }
    path.truncate(parent);
    Ok(())
}

/// The finite number that a leaf stands for.
fn number(leaf: &Value) -> Option<f64> {
    let number = match leaf {
        Value::Bool(true) => 1.0,
        Value::Bool(false) => 0.0,
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => numeric(text)?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// Parses a decimal number; words that Rust would take (`inf`, `nan`, `infinity`) are no numbers.
fn numeric(text: &str) -> Option<f64> {
    let text = text.trim();
    let starts_like_one = text
        .bytes()
        .next()
        .is_some_and(|first| first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.'));
    starts_like_one.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn flat(value: Value) -> Result<Value, TooDeep> {
        let Value::Object(object) = value else {
            panic!("an object")
        };
        flatten(&object).map(|fields| json!(fields))
    }

    #[test]
    fn the_table_of_the_contract_holds() {
        for (nested, expected) in [
            (json!({}), json!({})),
            (json!({"a": 1.5}), json!({"a": 1.5})),
            (
                json!({"a": {"b": [1.5, 2]}}),
                json!({"a/b/0": 1.5, "a/b/1": 2.0}),
            ),
            (
                json!({"on": true, "off": false}),
                json!({"off": 0.0, "on": 1.0}),
            ),
            (
                json!({"n": "21.5", "e": "1e3", "p": " 7 "}),
                json!({"e": 1000.0, "n": 21.5, "p": 7.0}),
            ),
            (
                json!({"t": "warm", "z": null, "inf": "inf", "nan": "nan"}),
                json!({}),
            ),
            (json!({"huge": "1e999"}), json!({})),
            (json!({"": {"": 1}}), json!({"/": 1.0})),
            (json!({"a": [], "b": {}}), json!({})),
        ] {
            assert_eq!(flat(nested.clone()), Ok(expected), "{nested}");
        }
    }

    fn nested(levels: usize) -> Value {
        (1..levels).fold(json!({"x": 1}), |inner, _| json!({"x": inner}))
    }

    #[test]
    fn the_deepest_allowed_nesting_passes_and_one_more_fails() {
        assert!(flat(nested(MAX_DEPTH)).is_ok());
        assert_eq!(flat(nested(MAX_DEPTH + 1)), Err(TooDeep));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(".{0,6}", inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_result_is_finite_and_no_larger_than_its_leaves(value in any_value()) {
            let mut object = Map::new();
            object.insert("v".into(), value.clone());
            let fields = flatten(&object).expect("shallower than the limit");
            prop_assert!(fields.values().all(|number| number.is_finite()));
            prop_assert!(fields.len() <= leaves(&value));
        }

        #[test]
        fn flattening_a_flat_object_changes_nothing(
            fields in prop::collection::btree_map("[a-z]{1,4}", -1e9..1e9_f64, 0..8)
        ) {
            let object: Map<String, Value> =
                fields.iter().map(|(name, number)| (name.clone(), json!(number))).collect();
            prop_assert_eq!(flatten(&object).expect("flat"), fields);
        }
    }

    fn leaves(value: &Value) -> usize {
        match value {
            Value::Array(children) => children.iter().map(leaves).sum(),
            Value::Object(children) => children.values().map(leaves).sum(),
            _ => 1,
        }
    }
}
