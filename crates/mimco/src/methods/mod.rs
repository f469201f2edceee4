//! The methods, one file each: `do_teacher`, `do_student` and `losses` read like the papers.

pub mod mask;
mod method;
pub mod mimco;
pub mod moco_v3;
mod queue;
mod sampling;
pub mod settings;
mod spec;

pub use method::{BuildContext, Figures, Method, ReadState, StateArray, StepInfo};
pub use spec::{MethodSpec, RecipeDefaults};
