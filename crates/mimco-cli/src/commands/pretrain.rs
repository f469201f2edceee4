//! `mimco pretrain`

use crate::args::Pretrain;
use crate::{output, signals, status::Status};
use anyhow::anyhow;
use mimco::settings::{Plan, Teacher};
use mimco::training::{Outcome, Run, Summary, open_images, pretrain};

/// Trains the stages of a run, or resumes it.
pub fn run(args: Pretrain) -> anyhow::Result<Status> {
    let teacher = if args.teacher.is_some() { Teacher::Given } else { Teacher::Trained };
    let plan = Plan::resolve(args.recipe.as_deref(), &args.settings, teacher)?;
    if args.print_config {
        if args.common.json {
            output::json(&plan)?;
        } else {
            output::line(plan.to_toml().trim_end())?;
        }
        return Ok(Status::Complete);
    }
    let (Some(data), Some(out)) = (args.data, args.out) else { return Err(anyhow!("--data and --out are required")) };
    args.common.announce();
    let interrupted = signals::interrupted()?;
    let images = open_images(&data, args.val.as_deref(), &out, &plan.main.data)?;
    let run = Run { plan, teacher: args.teacher, init: args.init, out: out.clone(), overwrite: args.overwrite, interrupted };
    let stages = match pretrain(&run, &images)? {
        Outcome::Interrupted => return Ok(Status::Interrupted),
        Outcome::Finished(stages) => stages,
        Outcome::AlreadyFinished(stages) => {
            tracing::info!("{} is already finished, nothing was changed; --overwrite starts it again", out.display());
            stages
        }
    };
    let Some(last) = stages.last() else { return Ok(Status::Complete) };
    if args.common.json {
        output::json(&serde_json::json!({ "out": out, "backbone": last.backbone, "stages": stages }))?;
    } else {
        summary(&stages, last, &out)?;
    }
    Ok(Status::Complete)
}

/// Prints a line for each stage and where the results are.
fn summary(stages: &[Summary], last: &Summary, out: &std::path::Path) -> anyhow::Result<()> {
    for stage in stages {
        let knn = stage.best_knn_top1.map_or(String::new(), |knn| format!(", best kNN accuracy during training {knn:.1} %"));
        output::line(&format!(
            "{}: {} epochs, {} updates, {:.1} minutes{knn}",
            stage.method,
            stage.epochs,
            stage.steps,
            stage.seconds / 60.0
        ))?;
    }
    output::line(&format!("backbone  {}", last.backbone.display()))?;
    output::line(&format!("report    {}", out.join("report.html").display()))
}
