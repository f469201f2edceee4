//! The settings of a run: every one has a default, and a run writes down the resolved values.

mod check;
mod config;
mod flat;
mod method;
mod plan;
mod run_options;
#[cfg(test)]
mod tests;

pub use crate::models::arch::Arch;
pub use crate::values::{Auto, BlockChoice};
pub use config::{Augment, Config, Data, Model, Optim, Train};
pub use method::MethodSettings;
pub use plan::{Plan, RECIPES, Teacher};
pub use run_options::{OptimizerName, Precision};
