//! `mimco demo`

use crate::args::Demo;
use crate::{output, signals, status::Status};
use mimco::demo::{DemoRequest, DemoSummary, NEXT, run as run_demo};
use mimco::settings::{Plan, Teacher};
use std::path::Path;

/// Runs the demo and prints its table.
pub fn run(args: Demo) -> anyhow::Result<Status> {
    args.common.announce();
    let plan = Plan::resolve(Some("demo"), &args.settings, Teacher::Trained)?;
    let request = DemoRequest { plan, out: args.out, overwrite: args.overwrite, interrupted: signals::interrupted()? };
    let Some(summary) = run_demo(&request)? else { return Ok(Status::Interrupted) };
    if args.common.json {
        output::json(&summary)?;
    } else {
        table(&summary, &request.out)?;
    }
    Ok(Status::Complete)
}

fn table(summary: &DemoSummary, out: &Path) -> anyhow::Result<()> {
    output::line(&format!("\n{}\n", summary.dataset))?;
    output::line("             epochs   seconds   kNN %   linear %")?;
    for row in &summary.rows {
        output::line(&format!(
            "{:<10} {:>8} {:>9.0} {:>7.1} {:>10.1}   {}",
            row.name, row.epochs, row.seconds, row.knn_top1, row.linear_top1, row.method
        ))?;
    }
    output::line(&format!(
        "\nThe student starts from random weights and needs its teacher, so its cost includes the teacher's. Total: {:.0} seconds.\n",
        summary.seconds
    ))?;
    output::line(&format!("report    {}", out.join("report.html").display()))?;
    output::line(&format!("backbone  {}", out.join("export/backbone.safetensors").display()))?;
    output::line(&format!("\nOn your own images:\n\n    {NEXT}\n"))
}
