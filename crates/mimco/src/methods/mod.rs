//! The methods, one file each: `do_teacher`, `do_student` and `losses` read like the papers.

pub mod mask;
mod method;
pub mod mimco;
pub mod moco_v3;
mod queue_state;
mod sampling;
pub mod settings;
mod spec;
mod step_metrics;

pub use method::{BuildContext, Method, ReadState, StateArray, StepInfo};
pub use spec::{MethodSpec, RecipeDefaults};
pub use step_metrics::StepMetrics;
