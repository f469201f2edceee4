//! `mimco bench step`, `mimco bench gemm`, `mimco bench data`: the speed of this machine.

use crate::args::{self, Bench, BenchCommand, BenchData, BenchGemm, BenchStep};
use crate::{output, status::Status};
use mimco::bench::step::StepBenchmark;
use mimco::bench::{data, products, step};
use mimco::settings::{Config, MethodSettings, Precision};
use mimco_data::Dataset;
use mimco_engine::cpu::threads::threads;

/// Runs one of the benchmarks.
pub fn run(args: Bench) -> anyhow::Result<Status> {
    match args.command {
        BenchCommand::Step(args) => time_step(args),
        BenchCommand::Gemm(args) => time_products(args),
        BenchCommand::Data(args) => time_data(args),
    }
}

fn time_step(args: BenchStep) -> anyhow::Result<Status> {
    args.common.announce();
    let (arch, name, precision) = (args.model, args.step.name(), args.precision.resolved());
    let benchmark = StepBenchmark { arch, step: args.step, precision, batch: args.batch as usize, steps: args.steps as usize };
    let timed = step::time(&benchmark)?;
    if args.common.json {
        return complete(output::json(&serde_json::json!({
            "stack": concat!("mimco ", env!("CARGO_PKG_VERSION")), "model": arch, "step": name, "precision": precision, "batch": args.batch,
            "threads": threads(), "img_per_s": timed.images.median, "best_img_per_s": timed.images.best, "peak_mib": timed.peak_mib,
            "mfu": timed.mfu, "kernel": precision.engine().kernel(), "page_faults_per_step": timed.page_faults_per_step,
        })));
    }
    let peak = timed.peak_mib.map_or(String::new(), |mib| format!(", peak memory {mib:.0} MiB"));
    complete(output::line(&format!(
        "{name} of ViT-{arch}/16 at 224 px in {}, batch {}: {:.2} images per second (best {:.2}), {:.0} % of a large product's rate{peak}",
        label(precision),
        args.batch,
        timed.images.median,
        timed.images.best,
        100.0 * timed.mfu
    )))
}

fn time_products(args: BenchGemm) -> anyhow::Result<Status> {
    args.common.announce();
    let precision = args.precision.resolved();
    let timed: Vec<products::Product> =
        args.shapes.iter().map(|&shape| products::time(shape, precision.engine(), args.repeats as usize)).collect();
    if args.common.json {
        return complete(output::json(&serde_json::json!({
            "precision": precision, "kernel": precision.engine().kernel(), "threads": threads(), "products": timed,
        })));
    }
    for product in timed {
        let [rows, inner, columns] = product.shape;
        output::line(&format!(
            "{rows} x {inner} x {columns} in {}: {:.0} GFLOP/s (best {:.0}), {:.0} with the right factor packed in advance",
            label(precision),
            product.gflops.median,
            product.gflops.best,
            product.gflops_packed.median
        ))?;
    }
    Ok(Status::Complete)
}

fn time_data(args: BenchData) -> anyhow::Result<Status> {
    let dataset = Dataset::open_unlabelled(&args.data).map_err(mimco::Error::from)?;
    let (method, name) = match args.pipeline {
        args::Pipeline::Mim => ("mimco", "mim"),
        args::Pipeline::Moco => ("moco_v3", "moco"),
    };
    let views = Config::defaults(MethodSettings::named(method)?).views();
    let rate = data::time(&dataset, &views, threads(), args.seconds)?;
    if args.json {
        return complete(output::json(&serde_json::json!({ "pipeline": name, "threads": threads(), "img_per_s": rate })));
    }
    complete(output::line(&format!("{name}: {rate:.1} images per second at 224 px, {} threads", threads())))
}

/// Returns the name of a resolved precision.
fn label(precision: Precision) -> &'static str {
    if precision == Precision::F32 { "f32" } else { "bf16" }
}

/// Turns a printed result into a status.
fn complete(printed: anyhow::Result<()>) -> anyhow::Result<Status> {
    printed.map(|()| Status::Complete)
}
