//! SIGINT and SIGTERM: the first asks the training to write a checkpoint and stop, the second stops at once.

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A flag that a signal sets.
pub fn interrupted() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the second signal finds the flag set and ends the process.
        signal_hook::flag::register_conditional_shutdown(signal, 1, flag.clone()).context("signals cannot be caught")?;
        signal_hook::flag::register(signal, flag.clone()).context("signals cannot be caught")?;
    }
    Ok(flag)
}
