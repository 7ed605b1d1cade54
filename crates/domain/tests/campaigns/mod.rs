//! What the campaigns have in common: the rules read a second time, and nested values.

mod event;
mod flatten;
mod key;
mod query;

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Deepest nesting, from the contract's prose.
const DEEPEST: usize = 32;
/// Every character of a key, from the contract's prose.
const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~:-";
/// Texts that look like numbers, or nearly.
const NUMERIC: [&str; 24] = [
    "1",
    "-1",
    "+1",
    " 7\t",
    "1.",
    ".5",
    "-.5e-3",
    "1e3",
    "1E+3",
    "1e999",
    "-1e999",
    "5e-324",
    "inf",
    "+inf",
    "-infinity",
    "nan",
    "-NaN",
    "0x10",
    "1_000",
    "1,5",
    "+",
    ".",
    "e5",
    "\u{663}",
];

/// Whether a text is a key.
fn is_key(text: &str) -> bool {
    (1..=128).contains(&text.chars().count()) && text.chars().all(|it| ALPHABET.contains(it))
}

/// A value flattened, or nothing if it is nested too deeply.
fn flattened(object: &Map<String, Value>) -> Option<BTreeMap<String, f64>> {
    let value = Value::Object(object.clone());
    if containers(&value) > DEEPEST {
        return None;
    }
    let mut leaves = Vec::new();
    collect(&value, &[], &mut leaves);
    let numbers = leaves.into_iter();
    let numbers = numbers.filter_map(|(path, leaf)| Some((path.join("/"), number(&leaf)?)));
    Some(numbers.collect())
}

/// Objects and lists on the longest way down.
fn containers(value: &Value) -> usize {
    match value {
        Value::Object(children) => 1 + children.values().map(containers).max().unwrap_or(0),
        Value::Array(children) => 1 + children.iter().map(containers).max().unwrap_or(0),
        _ => 0,
    }
}

/// Every leaf with the names on the way to it, in the sorted order of the names.
fn collect(value: &Value, path: &[String], leaves: &mut Vec<(Vec<String>, Value)>) {
    let mut children: Vec<(String, &Value)> = match value {
        Value::Object(children) => children
            .iter()
            .map(|(name, it)| (name.clone(), it))
            .collect(),
        Value::Array(children) => {
            let children = children.iter().enumerate();
            children.map(|(n, it)| (n.to_string(), it)).collect()
        }
        leaf => {
            leaves.push((path.to_vec(), leaf.clone()));
            return;
        }
    };
    if value.is_object() {
        children.sort_by(|one, other| one.0.cmp(&other.0));
    }
    for (name, child) in children {
        collect(child, &[path, &[name]].concat(), leaves);
    }
}

fn number(leaf: &Value) -> Option<f64> {
    let number = match leaf {
        Value::Bool(is) => f64::from(u8::from(*is)),
        Value::Number(number) => number.as_f64()?,
        Value::String(text) if is_decimal(text.trim()) => text.trim().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// Sign, digits with at most one point among them, exponent.
fn is_decimal(text: &str) -> bool {
    let unsigned = |text: &str| text.strip_prefix(['+', '-']).unwrap_or(text).to_owned();
    let digits = |text: &str| !text.is_empty() && text.chars().all(|it| it.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(unsigned(exponent))),
        None => (text, None),
    };
    digits(&unsigned(mantissa).replacen('.', "", 1)) && exponent.is_none_or(|it| digits(&it))
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[ab01/]{0,3}",
        1 => ".{0,4}",
    ]
}

/// Any value of some levels.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(&NUMERIC[..]).prop_map(Value::from),
        "[ +-]?[0-9.eE+-]{0,6}".prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            object_of(inner).prop_map(Value::Object),
        ]
    })
}

fn object_of(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let members = prop::collection::vec((any_name(), inner), 0..4);
    members.prop_map(|members| members.into_iter().collect())
}

/// Any object; every third lies near the deepest nesting, on either side.
fn any_object() -> impl Strategy<Value = Map<String, Value>> {
    let around = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec(any::<bool>(), DEEPEST - 6..DEEPEST + 3),
    ];
    (object_of(any_value()), around).prop_map(|(object, around)| {
        let wrap = |inner, is_list| {
            if is_list {
                json!([inner])
            } else {
                json!({ "w": inner })
            }
        };
        match around.into_iter().fold(Value::Object(object), wrap) {
            Value::Object(object) => object,
            other => [("l".to_owned(), other)].into_iter().collect(),
        }
    })
}
