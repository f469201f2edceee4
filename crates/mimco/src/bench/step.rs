//! One training step on random images, the same work as `bench/pytorch_step.py` does in PyTorch.

use super::{Rate, peak_mib, products, rate};
use crate::Error;
use crate::methods::mask::MaskGenerator;
use crate::methods::mimco::{Mimco, Places};
use crate::methods::moco_v3::MocoV3;
use crate::methods::{Clock, Method};
use crate::models::arch::Arch;
use crate::models::backbone::Backbone;
use crate::models::vit::{Forward, Start, Vit, VitConfig};
use crate::settings::{Config, MethodName, Mimco as MimcoSettings, MocoV3 as MocoV3Settings, Precision};
use mimco_data::random::{Purpose, keyed, unit};
use mimco_engine::cpu::threads::for_each_chunk;
use mimco_engine::cpu::vector::wide;
use mimco_engine::optim::{Optimizer, Rule, clear};
use mimco_engine::{Parameters, Tape, Tensor};
use serde::Serialize;

/// Which step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A teacher's inference: all tokens, no gradient.
    Forward,
    /// Forward, backward and AdamW of one ViT on the mean-squared error of its mean token.
    Train,
    /// MimCo: a frozen teacher, a masked student, both losses within the batch, AdamW.
    Mimco,
    /// MoCo v3: two views, heads of 4,096, momentum encoder, AdamW, momentum update.
    MocoV3,
}

/// What to time.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The model, with patches of 16 px at 224 px.
    pub arch: Arch,
    /// The step.
    pub step: Step,
    /// f32 or bf16.
    pub precision: Precision,
    /// Images a step.
    pub batch: usize,
    /// Steps that are timed.
    pub steps: usize,
}

/// What it took.
#[derive(Clone, Debug, Serialize)]
pub struct Timed {
    /// Images a second.
    pub images: Rate,
    /// Largest resident set of the process in MiB.
    pub peak_mib: Option<f64>,
    /// Page faults a step, once the first two are done: 0 where all buffers are used again.
    pub page_faults_per_step: Option<f64>,
    /// The model's operations a second as a share of a large product's.
    pub mfu: f64,
}

const SIZE: usize = 224;
const PATCH: usize = 16;
/// Patches that MimCo hides: 120 of 196.
const HIDDEN: f64 = 120.0;

/// Times steps of `wanted` on random images and weights.
///
/// # Errors
/// None but those of settings that do not fit together.
pub fn time(wanted: &Wanted) -> Result<Timed, Error> {
    let mut work = Work::new(wanted)?;
    let mut faults = Vec::new();
    let images = rate(wanted.batch as f64, wanted.steps, || {
        faults.extend(page_faults());
        work.run();
    });
    faults.extend(page_faults());
    let steady = faults.get(2).zip(faults.last()).map(|(first, last)| (last - first) as f64 / wanted.steps.max(1) as f64);
    let peak_mib = peak_mib();
    let mfu = images.median * work.flop_per_image / products::ceiling(wanted.precision.engine());
    Ok(Timed { images, peak_mib, page_faults_per_step: steady, mfu })
}

/// Minor page faults of the process so far.
fn page_faults() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command stands in brackets and may hold spaces; minflt is the eighth field behind it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(7)?.parse().ok()
}

/// A step that can be run again and again.
struct Work {
    kind: Kind,
    gradients: Vec<f32>,
    flop_per_image: f64,
    clock: Clock,
}

enum Kind {
    Forward { vit: Vit, parameters: Parameters, images: Tensor },
    Train { vit: Vit, parameters: Parameters, images: Tensor, optimizer: Optimizer },
    Mimco { method: Box<Mimco>, images: Tensor, places: Places, owners: Vec<u32>, optimizer: Optimizer },
    MocoV3 { method: Box<MocoV3>, views: [Tensor; 2], optimizer: Optimizer },
}

impl Work {
    fn new(wanted: &Wanted) -> Result<Work, Error> {
        let (width, depth, heads) = wanted.arch.sizes();
        let shape = VitConfig { heads, ..VitConfig::plain(width, depth, 4 * width, PATCH, SIZE) };
        let model = || {
            let mut parameters = Parameters::new();
            let vit = Vit::declare(&shape, &mut parameters, "");
            vit.initialise(&mut parameters, Start::Normal, 0);
            parameters.set_precision(wanted.precision.engine());
            (vit, parameters)
        };
        let images = |view: u64| {
            let mut rng = keyed(0, Purpose::Order, view, 0);
            let mut images = Tensor::stale([wanted.batch, 3, SIZE, SIZE]);
            images.data_mut().iter_mut().for_each(|pixel| *pixel = unit(&mut rng));
            images
        };
        let adamw = |parameters: &Parameters| Optimizer::new(Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 }, 0.05, parameters);
        let config = |method| Config { precision: wanted.precision, ..Config::defaults(method) };
        let (kind, flop_per_image) = match wanted.step {
            Step::Forward => {
                let (vit, parameters) = model();
                (Kind::Forward { vit, parameters, images: images(0) }, shape.forward_flop(shape.tokens()))
            }
            Step::Train => {
                let (vit, parameters) = model();
                let flop = 3.0 * shape.forward_flop(shape.tokens()) - shape.embedding_flop();
                let optimizer = adamw(&parameters);
                (Kind::Train { vit, parameters, images: images(0), optimizer }, flop)
            }
            Step::Mimco => {
                let (vit, parameters) = model();
                let mask = MaskGenerator::new(shape.grid(), 1, HIDDEN / shape.patches() as f64);
                let places = Places::masked((0..wanted.batch as u64).flat_map(|image| mask.draw(0, 0, image)).collect());
                let (config, settings) = (config(MethodName::Mimco), MimcoSettings::default());
                let method = Mimco::new(&config, &shape, &settings, mask, Backbone { vit, parameters }, 10 * wanted.batch)?;
                let (flop, optimizer) = (method.flop_per_image(), adamw(method.parameters()));
                let owners = (0..wanted.batch as u32).collect();
                (Kind::Mimco { method: Box::new(method), images: images(0), places, owners, optimizer }, flop)
            }
            Step::MocoV3 => {
                let method = MocoV3::new(&config(MethodName::MocoV3), &shape, &MocoV3Settings::default());
                let (flop, optimizer) = (method.flop_per_image(), adamw(method.parameters()));
                (Kind::MocoV3 { method: Box::new(method), views: [images(0), images(1)], optimizer }, flop)
            }
        };
        let trained = match &kind {
            Kind::Forward { .. } => 0,
            Kind::Train { parameters, .. } => parameters.flat().len(),
            Kind::Mimco { method, .. } => method.parameters().flat().len(),
            Kind::MocoV3 { method, .. } => method.parameters().flat().len(),
        };
        let clock = Clock { step: 0, draw: 0, total: 1000, epoch: 0, seed: 0 };
        Ok(Work { kind, gradients: vec![0.0; trained], flop_per_image, clock })
    }

    fn run(&mut self) {
        const RATE: f32 = 1e-4;
        let (clock, gradients) = (self.clock, &mut self.gradients);
        clear(gradients);
        match &mut self.kind {
            Kind::Forward { vit, parameters, images } => {
                vit.forward(&mut Tape::inference(parameters), images, &Forward::default());
            }
            Kind::Train { vit, parameters, images, optimizer } => {
                let mut tape = Tape::recording(parameters);
                let tokens = vit.forward(&mut tape, images, &Forward::default());
                let seed = mean_token_gradient(&tokens.value, images.dims()[0]);
                tape.backward(&tokens, seed, gradients, None);
                optimizer.step(parameters, gradients, RATE, 1.0);
            }
            Kind::Mimco { method, images, places, owners, optimizer } => {
                method.losses(images, places, owners, clock, 1.0, gradients);
                optimizer.step(method.parameters_mut(), gradients, RATE, 1.0);
                method.updated(clock);
            }
            Kind::MocoV3 { method, views, optimizer } => {
                method.losses([&views[0], &views[1]], clock, 1.0, gradients);
                optimizer.step(method.parameters_mut(), gradients, RATE, 1.0);
                method.updated(clock);
            }
        }
        self.clock.step += 1;
        self.clock.draw += 1;
    }
}

/// The gradient of mean((m - 1/2)²) by the tokens, m each image's mean token: 2 (m - 1/2) / (images · width · tokens). [rows, width]
fn mean_token_gradient(tokens: &Tensor, images: usize) -> Tensor {
    let width = tokens.width();
    let rows = tokens.rows() / images;
    let mut gradient = Tensor::stale(tokens.dims());
    for_each_chunk(gradient.data_mut(), rows * width, |image, gradient| {
        let tokens = &tokens.data()[image * rows * width..][..rows * width];
        wide(
            #[inline(always)]
            || {
                let mut mean = vec![0.0f32; width];
                tokens.chunks_exact(width).for_each(|token| mean.iter_mut().zip(token).for_each(|(m, t)| *m += t / rows as f32));
                mean.iter_mut().for_each(|m| *m = 2.0 * (*m - 0.5) / (images * width * rows) as f32);
                gradient.chunks_exact_mut(width).for_each(|row| row.copy_from_slice(&mean));
            },
        );
    });
    gradient
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_training_steps_gradient_is_the_losss() {
        let mut tokens = Tensor::stale([6, 2]);
        tokens.data_mut().iter_mut().enumerate().for_each(|(i, v)| *v = (i * i) as f32 / 20.0);
        let loss = |tokens: &Tensor| {
            let of_image =
                |tokens: &[f32]| (0..2).map(|c| ((0..3).map(|t| tokens[2 * t + c] as f64).sum::<f64>() / 3.0 - 0.5).powi(2)).sum::<f64>();
            tokens.data().chunks_exact(6).map(of_image).sum::<f64>() / 4.0
        };
        let gradient = mean_token_gradient(&tokens, 2);
        for i in 0..12 {
            let [up, down] = [1e-2, -1e-2].map(|step| {
                let mut moved = tokens.clone();
                moved.data_mut()[i] += step;
                loss(&moved)
            });
            assert!(((up - down) / 2e-2 - gradient.data()[i] as f64).abs() < 1e-4, "{i}");
        }
    }

    #[test]
    fn every_step_runs_in_both_precisions() {
        for step in [Step::Forward, Step::Train, Step::Mimco, Step::MocoV3] {
            for precision in [Precision::F32, Precision::Bf16] {
                let mut work = Work::new(&Wanted { arch: Arch::Nano, step, precision, batch: 2, steps: 1 }).unwrap();
                work.run();
                assert!(work.gradients.iter().all(|g| g.is_finite()) && work.flop_per_image > 1e8, "{step:?} {precision:?}");
                assert_eq!(work.gradients.iter().any(|g| *g != 0.0), step != Step::Forward);
            }
        }
    }
}
