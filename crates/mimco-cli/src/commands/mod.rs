//! The verbs: each turns its arguments into one call of the library and prints the result.

pub mod bench;
pub mod check_data;
pub mod completions;
pub mod convert;
pub mod demo;
pub mod evaluate;
pub mod man;
pub mod pack;
pub mod pretrain;
mod progress;
