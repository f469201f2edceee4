//! The verbs, each from its arguments to one call of the library.

pub mod bench;
pub mod check_data;
pub mod completions;
pub mod convert;
pub mod demo;
pub mod evaluate;
pub mod pack;
pub mod pretrain;
