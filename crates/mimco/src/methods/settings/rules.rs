//! Checks of settings: the first rule that does not hold is the error.

use crate::Error;

/// Returns whether `x` is finite and above 0.
pub(crate) fn positive(x: f32) -> bool {
    x > 0.0 && x.is_finite()
}

/// Returns the message of the first rule that does not hold, as an error.
///
/// # Errors
/// A rule whose first part is false.
pub(crate) fn check_rules<const N: usize>(rules: [(bool, String); N]) -> Result<(), Error> {
    rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, message)| Err(Error::Setting(message)))
}
