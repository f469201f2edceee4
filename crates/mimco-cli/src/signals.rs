//! SIGINT and SIGTERM. The first signal requests a checkpoint and a clean stop; the second stops at once.

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Installs the handlers and returns the flag that the first signal sets.
///
/// # Errors
/// The operating system refuses a handler.
pub fn interrupted() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the second signal finds the flag set and ends the process.
        signal_hook::flag::register_conditional_shutdown(signal, 1, flag.clone()).context("cannot install signal handlers")?;
        signal_hook::flag::register(signal, flag.clone()).context("cannot install signal handlers")?;
    }
    Ok(flag)
}
