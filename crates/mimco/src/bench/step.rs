//! One training step on random images; `bench/pytorch_step.py` does the same work in PyTorch.

use super::{Rate, peak_mib, rate};
use crate::Error;
use crate::methods::{BuildContext, Method, StepInfo};
use crate::models::arch::Arch;
use crate::models::backbone::Backbone;
use crate::models::vit::{ForwardOptions, Initialization, Vit, VitConfig};
use crate::settings::{Config, MethodSettings, Precision};
use mimco_data::loader::Batch;
use mimco_data::random::{Purpose, keyed, unit};
use mimco_engine::optim::{Optimizer, Rule, finite_flag};
use mimco_engine::{Gradients, Parameters, Tape, Tensor, peak_flops};
use serde::Serialize;

/// A step to time.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Inference of all tokens.
    Forward,
    /// Forward, backward and AdamW of one ViT, for the mean-squared error of its mean token.
    Train,
    /// A step of a method with its default settings, AdamW and the method's own update included.
    Method(MethodSettings),
}

impl Step {
    /// Returns the step of this name: `forward`, `train`, or a method's name.
    ///
    /// # Errors
    /// An unknown name.
    pub fn named(name: &str) -> Result<Step, Error> {
        match name {
            "forward" => Ok(Step::Forward),
            "train" => Ok(Step::Train),
            method => MethodSettings::named(method).map(Step::Method),
        }
    }

    /// Returns the name of the step.
    pub fn name(&self) -> &'static str {
        match self {
            Step::Forward => "forward",
            Step::Train => "train",
            Step::Method(settings) => settings.spec().name(),
        }
    }

    /// Returns the names of all steps.
    pub fn names() -> Vec<&'static str> {
        let methods = MethodSettings::all();
        ["forward", "train"].into_iter().chain(methods.iter().map(|method| method.spec().name())).collect()
    }
}

/// What to time.
#[derive(Clone, Debug)]
pub struct StepBenchmark {
    /// Model, with patches of 16 px at 224 px.
    pub arch: Arch,
    /// Step to time.
    pub step: Step,
    /// f32 or bf16.
    pub precision: Precision,
    /// Images per step.
    pub batch: usize,
    /// Number of timed steps.
    pub steps: usize,
}

/// Time and memory of a step.
#[derive(Clone, Debug, Serialize)]
pub struct StepTiming {
    /// Images per second.
    pub images: Rate,
    /// Peak resident set of the process in MiB.
    pub peak_mib: Option<f64>,
    /// Page faults per step after the first two; 0 if all buffers are reused.
    pub page_faults_per_step: Option<f64>,
    /// Operations per second of the model, as a share of a large product's.
    pub mfu: f64,
}

const SIZE: usize = 224;
const PATCH: usize = 16;

/// Times a step on random images and weights.
///
/// # Errors
/// Settings that do not fit together.
pub fn time(benchmark: &StepBenchmark) -> Result<StepTiming, Error> {
    let mut work = Work::new(benchmark)?;
    let mut faults = Vec::new();
    let images = rate(benchmark.batch as f64, benchmark.steps, || {
        faults.extend(page_faults());
        work.run();
    });
    faults.extend(page_faults());
    let steady = faults.get(2).zip(faults.last()).map(|(first, last)| (last - first) as f64 / benchmark.steps.max(1) as f64);
    let peak_mib = peak_mib();
    let mfu = images.median * work.flop_per_image / peak_flops(benchmark.precision.engine());
    Ok(StepTiming { images, peak_mib, page_faults_per_step: steady, mfu })
}

/// Returns the minor page faults of the process so far.
fn page_faults() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command is in parentheses and may contain spaces; minflt is the eighth field after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(7)?.parse().ok()
}

/// A step that can run repeatedly.
struct Work {
    kind: Kind,
    gradients: Gradients,
    flop_per_image: f64,
    info: StepInfo,
}

enum Kind {
    Forward { vit: Vit, parameters: Parameters, images: Tensor },
    Train { vit: Vit, parameters: Parameters, images: Tensor, optimizer: Optimizer },
    Method { method: Box<dyn Method>, batch: Batch, optimizer: Optimizer },
}

impl Work {
    fn new(benchmark: &StepBenchmark) -> Result<Work, Error> {
        let (width, depth, heads) = benchmark.arch.sizes();
        let model = VitConfig { heads, ..VitConfig::plain(width, depth, 4 * width, PATCH, SIZE) };
        let (precision, batch) = (benchmark.precision.engine(), benchmark.batch);
        let random_backbone = || {
            let mut parameters = Parameters::new();
            let vit = Vit::declare(&model, &mut parameters, "");
            vit.initialize(&mut parameters, Initialization::Normal, 0);
            parameters.set_precision(precision);
            Backbone { vit, parameters }
        };
        let view = |view: u64| -> Vec<f32> {
            let mut rng = keyed(0, Purpose::Order, view, 0);
            (0..batch * 3 * SIZE * SIZE).map(|_| unit(&mut rng)).collect()
        };
        let images = || Tensor::from_slice([batch, 3, SIZE, SIZE], &view(0));
        let adamw = |parameters: &Parameters| Optimizer::new(Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 }, 0.05, parameters);
        let (kind, flop_per_image, gradients) = match &benchmark.step {
            Step::Forward => {
                let Backbone { vit, parameters } = random_backbone();
                (Kind::Forward { vit, parameters, images: images() }, model.forward_flop(model.tokens()), Parameters::new().gradients())
            }
            Step::Train => {
                let Backbone { vit, parameters } = random_backbone();
                let (optimizer, gradients) = (adamw(&parameters), parameters.gradients());
                let flop = 3.0 * model.forward_flop(model.tokens()) - model.embedding_flop();
                (Kind::Train { vit, parameters, images: images(), optimizer }, flop, gradients)
            }
            Step::Method(settings) => {
                let teacher = settings.spec().needs_teacher().then(random_backbone);
                let views = Config::defaults(settings.clone()).views().view_count() as u64;
                let (seed, images) = (0, 10 * batch);
                let context = BuildContext { model, seed, precision, drop_path: 0.0, recompute: false, teacher, images };
                let method = settings.build(context)?;
                let batch = Batch {
                    indices: (0..batch as u32).collect(),
                    views: (0..views).map(view).collect(),
                    targets: None,
                    broken: Vec::new(),
                };
                let (flop, optimizer) = (method.flop_per_image(), adamw(method.parameters()));
                let gradients = method.parameters().gradients();
                (Kind::Method { method, batch, optimizer }, flop, gradients)
            }
        };
        let info = StepInfo { step: 0, draw: 0, total: 1000, epoch: 0, seed: 0 };
        Ok(Work { kind, gradients, flop_per_image, info })
    }

    fn run(&mut self) {
        const RATE: f32 = 1e-4;
        let (info, gradients) = (self.info, &mut self.gradients);
        gradients.clear();
        match &mut self.kind {
            Kind::Forward { vit, parameters, images } => {
                vit.forward(&mut Tape::inference(parameters), images, &ForwardOptions::default());
            }
            Kind::Train { vit, parameters, images, optimizer } => {
                let mut tape = Tape::recording(parameters);
                let tokens = vit.forward(&mut tape, images, &ForwardOptions::default());
                let mean = tape.mean_tokens(&tokens.x, &tokens.offsets, 0); // [batch, width]
                let loss = tape.mean_square(&mean, 0.5);
                tape.backward(&loss, Tensor::scalar(1.0), gradients, None);
                let norm = gradients.norm();
                let finite = finite_flag(&norm, &[&loss.value]);
                optimizer.step(parameters, gradients, RATE, 0.0, &norm, &finite);
            }
            Kind::Method { method, batch, optimizer } => {
                let metrics = method.step(batch, info, 1.0, gradients);
                let norm = gradients.norm();
                let finite = finite_flag(&norm, &metrics.losses().collect::<Vec<_>>());
                optimizer.step(method.parameters_mut(), gradients, RATE, 0.0, &norm, &finite);
                method.after_update(info, &finite);
            }
        }
        self.info.step += 1;
        self.info.draw += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_runs_in_both_precisions() {
        for step in Step::names().into_iter().map(|name| Step::named(name).unwrap()) {
            for precision in [Precision::F32, Precision::Bf16] {
                let mut work = Work::new(&StepBenchmark { arch: Arch::Nano, step: step.clone(), precision, batch: 2, steps: 1 }).unwrap();
                work.run();
                let gradients = work.gradients.flat_to_host();
                assert!(gradients.iter().all(|g| g.is_finite()) && work.flop_per_image > 1e8, "{step:?} {precision:?}");
                assert_eq!(gradients.iter().any(|g| *g != 0.0), step != Step::Forward);
            }
        }
    }
}
