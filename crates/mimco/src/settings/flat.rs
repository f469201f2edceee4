//! Tables of settings as dotted keys.

use std::collections::BTreeMap;
use toml::{Table, Value};

/// Returns the dotted keys of a table and their values.
pub(super) fn flatten(table: &Table) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => all.extend(flatten(inner).into_iter().map(|(inner, value)| (format!("{key}.{inner}"), value))),
            value => _ = all.insert(key.clone(), value.clone()),
        }
    }
    all
}

/// Returns the dotted keys and their values as text. Numbers have the digits of an f32, not of the f64
/// that TOML makes of it.
pub(super) fn flatten_to_text(table: &Table) -> BTreeMap<String, String> {
    let show = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Float(number) => (*number as f32).to_string(),
        other => other.to_string(),
    };
    flatten(table).into_iter().map(|(key, value)| (key, show(&value))).collect()
}

/// Joins the lines of a message.
pub(super) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
