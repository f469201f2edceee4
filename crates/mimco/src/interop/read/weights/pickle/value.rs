//! Values that a pickle describes.

use std::borrow::Cow;

/// Number of a value.
pub type Handle = u32;

/// Value that a pickle describes.
pub enum Value<'a> {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Cow<'a, str>),
    Tuple(Vec<Handle>),
    List(Vec<Handle>),
    Dict(Vec<(Handle, Handle)>),
    /// Class or function by the texts of its module and name.
    Global {
        module: Handle,
        name: Handle,
    },
    /// Result of a call of `class` with `args`. `state` is the argument of its `__setstate__`.
    Object {
        class: Handle,
        args: Handle,
        state: Handle,
    },
    /// Object outside the pickle, by its name.
    Persistent(Handle),
    /// Value of which only the class is known.
    Other(&'static str),
}

/// Returns a value; `None` for an unknown number.
pub fn get<'v, 'a>(values: &'v [Value<'a>], handle: Handle) -> &'v Value<'a> {
    values.get(handle as usize).unwrap_or(&Value::None)
}

/// Returns the text of a value of that type.
pub fn text<'v>(values: &'v [Value<'_>], handle: Handle) -> Option<&'v str> {
    if let Value::Text(text) = get(values, handle) { Some(text) } else { None }
}

/// Returns the items of a tuple or list.
pub fn items<'v>(values: &'v [Value<'_>], handle: Handle) -> Option<&'v [Handle]> {
    if let Value::Tuple(items) | Value::List(items) = get(values, handle) { Some(items) } else { None }
}

/// Returns the module and the name of a class or function.
pub fn global<'v>(values: &'v [Value<'_>], handle: Handle) -> Option<(&'v str, &'v str)> {
    if let Value::Global { module, name } = get(values, handle) { Some((text(values, *module)?, text(values, *name)?)) } else { None }
}
