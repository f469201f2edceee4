//! `mimco pretrain`

use crate::args::Pretrain;
use crate::{Done, output, signals};
use anyhow::anyhow;
use mimco::settings::{Plan, Teacher};
use mimco::training::{Outcome, Run, Summary, open_images, pretrain};

pub fn run(args: Pretrain) -> anyhow::Result<Done> {
    let teacher = if args.teacher.is_some() { Teacher::Given } else { Teacher::Trained };
    let plan = Plan::resolve(args.recipe.as_deref(), &args.settings, teacher)?;
    if args.print_config {
        if args.common.json {
            output::json(&plan)?;
        } else {
            output::line(plan.to_toml().trim_end())?;
        }
        return Ok(Done::Complete);
    }
    let (Some(data), Some(out)) = (args.data, args.out) else { return Err(anyhow!("--data and --out are needed")) };
    args.common.announce();
    let interrupted = signals::interrupted()?;
    let images = open_images(&data, args.val.as_deref(), &out, &plan.main.data)?;
    let run = Run { plan, teacher: args.teacher, init: args.init, out: out.clone(), overwrite: args.overwrite, interrupted };
    let stages = match pretrain(&run, &images)? {
        Outcome::Interrupted => return Ok(Done::Interrupted),
        Outcome::Finished(stages) => stages,
        Outcome::AlreadyFinished(stages) => {
            tracing::info!("{} is finished already, nothing was changed; --overwrite starts it anew", out.display());
            stages
        }
    };
    let Some(last) = stages.last() else { return Ok(Done::Complete) };
    if args.common.json {
        output::json(&serde_json::json!({ "out": out, "backbone": last.backbone, "stages": stages }))?;
    } else {
        summary(&stages, last, &out)?;
    }
    Ok(Done::Complete)
}

fn summary(stages: &[Summary], last: &Summary, out: &std::path::Path) -> anyhow::Result<()> {
    for stage in stages {
        let knn = stage.best_knn_top1.map_or(String::new(), |knn| format!(", best kNN accuracy while training {knn:.1} %"));
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
