//! What features are worth: kNN, a linear probe, their rank and spread, and files of them for other tools.
//!
//! Everything here reads [`features::Features`]: an image's class token or mean patch token, computed once and kept.

mod checks;
pub mod embed;
pub mod features;
pub mod health;
pub mod knn;
mod lbfgs;
pub mod linear;
mod softmax;
