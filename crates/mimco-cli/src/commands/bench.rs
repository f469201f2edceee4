//! `mimco bench step`, `mimco bench gemm`, `mimco bench data`: the speed of this machine.

use crate::args::{self, Bench, BenchCommand, BenchData, BenchGemm, BenchStep};
use crate::{output, status::Status};
use mimco::bench::{data, products, step};
use mimco::models::arch::Arch;
use mimco::settings::{Config, MethodName, MocoV3, Precision};
use mimco_data::Dataset;
use mimco_data::pipeline::Pipeline;
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
    let arch = match args.model {
        args::Model::Tiny => Arch::Tiny,
        args::Model::Small => Arch::Small,
        args::Model::Base => Arch::Base,
        args::Model::Large => Arch::Large,
    };
    let (step, name) = match args.step {
        args::Step::Forward => (step::Step::Forward, "forward"),
        args::Step::Train => (step::Step::Train, "train"),
        args::Step::Mimco => (step::Step::Mimco, "mimco"),
        args::Step::MocoV3 => (step::Step::MocoV3, "moco_v3"),
    };
    let precision = precision(args.precision);
    let timed = step::time(&step::Wanted { arch, step, precision, batch: args.batch as usize, steps: args.steps as usize })?;
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
    let precision = precision(args.precision);
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
    let dataset = Dataset::heap(&args.data).map_err(mimco::Error::from)?;
    let config = |method| Config::defaults(method);
    let (views, name) = match args.pipeline {
        args::Pipeline::Mim => (Pipeline::Mim(config(MethodName::Mimco).mim_augment()), "mim"),
        args::Pipeline::Moco => (Pipeline::MocoV3(config(MethodName::MocoV3).moco_augment(&MocoV3::default())), "moco"),
    };
    let rate = data::time(&dataset, &views, threads(), args.seconds)?;
    if args.json {
        return complete(output::json(&serde_json::json!({ "pipeline": name, "threads": threads(), "img_per_s": rate })));
    }
    complete(output::line(&format!("{name}: {rate:.1} images per second at 224 px, {} threads", threads())))
}

/// Returns the precision to use; `auto` depends on the processor.
fn precision(wanted: args::Precision) -> Precision {
    match wanted {
        args::Precision::Auto => Precision::Auto.resolved(),
        args::Precision::F32 => Precision::F32,
        args::Precision::Bf16 => Precision::Bf16,
    }
}

/// Returns the name of a resolved precision.
fn label(precision: Precision) -> &'static str {
    if precision == Precision::F32 { "f32" } else { "bf16" }
}

/// Turns a printed result into a status.
fn complete(printed: anyhow::Result<()>) -> anyhow::Result<Status> {
    printed.map(|()| Status::Complete)
}
