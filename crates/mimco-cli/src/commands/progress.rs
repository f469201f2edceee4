//! A line of progress on a terminal.

use std::io::IsTerminal;

/// Returns a function that shows how many of `total` images are done, every hundredth and the last.
///
/// It prints nothing if standard error is not a terminal.
pub fn images(total: usize) -> impl Fn(usize) {
    let terminal = std::io::stderr().is_terminal();
    move |done| {
        if terminal && (done.is_multiple_of(100) || done == total) {
            eprint!("\r{done} of {total} images{}", if done == total { "\n" } else { "" });
        }
    }
}
