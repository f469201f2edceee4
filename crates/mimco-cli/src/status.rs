//! How a verb ended.

/// The end of a verb that did not fail; it decides the exit code.
pub enum Status {
    /// Everything is done; exit code 0.
    Complete,
    /// A signal stopped the verb, and finished work is kept; exit code 130.
    Interrupted,
}
