//! Evaluation of frozen features: kNN, linear probe, effective rank and spread, and export to
//! files.
//!
//! Every evaluation reads [`features::Features`]: one class token or mean patch token per image,
//! computed once and kept.

mod checks;
pub mod embed;
pub mod features;
pub mod health;
pub mod knn;
mod lbfgs;
pub mod linear;
mod softmax;
