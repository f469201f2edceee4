//! The values that a pickle builds.

use std::borrow::Cow;

/// A value's number.
pub type Handle = u32;

/// What a pickle builds.
pub enum Value<'a> {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Cow<'a, str>),
    Tuple(Vec<Handle>),
    List(Vec<Handle>),
    Dict(Vec<(Handle, Handle)>),
    /// Something to import; both are texts.
    Global {
        module: Handle,
        name: Handle,
    },
    /// What a call of `class` with `args` would have given; `state` is what its `__setstate__` would have got.
    Object {
        class: Handle,
        args: Handle,
        state: Handle,
    },
    /// Something outside the pickle, by its name there.
    Persistent(Handle),
    /// A value of which only the class matters.
    Other(&'static str),
}

pub fn get<'v, 'a>(values: &'v [Value<'a>], handle: Handle) -> &'v Value<'a> {
    values.get(handle as usize).unwrap_or(&Value::None)
}

pub fn text<'v>(values: &'v [Value<'_>], handle: Handle) -> Option<&'v str> {
    if let Value::Text(text) = get(values, handle) { Some(text) } else { None }
}

pub fn items<'v>(values: &'v [Value<'_>], handle: Handle) -> Option<&'v [Handle]> {
    if let Value::Tuple(items) | Value::List(items) = get(values, handle) { Some(items) } else { None }
}

pub fn global<'v>(values: &'v [Value<'_>], handle: Handle) -> Option<(&'v str, &'v str)> {
    if let Value::Global { module, name } = get(values, handle) { Some((text(values, *module)?, text(values, *name)?)) } else { None }
}
