//! Runs the built command on small sets of images.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;
use std::process::{Command, Output};

/// A model and a run of seconds: 16 px, 16 patches.
pub const SMALL: [&str; 11] = [
    "model.arch=nano",
    "model.image_size=16",
    "model.patch_size=4",
    "train.batch_size=8",
    "train.epochs=2",
    "train.log_steps=1",
    "moco_v3.hidden=32",
    "moco_v3.out=16",
    "data.workers=1",
    "optim.lr_batch=8",
    "moco_v3.blur_sigma=[0.1, 0.5]",
];

pub fn mimco() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mimco"));
    command.env_remove("RAYON_NUM_THREADS");
    command
}

/// Coloured stripes, another pattern for each number.
pub fn picture(number: u32, width: u32, height: u32) -> image::RgbImage {
    let shade = |x: u32, k: u32| (x * (3 + number * k % 7) * 16 % 256) as u8;
    image::RgbImage::from_fn(width, height, |x, y| image::Rgb([shade(x, 1), shade(y, 2), shade(x + y, 3)]))
}

/// `folder/NAME-00.png`, ... of 20 x 24 pixels.
pub fn pictures(folder: &Path, name: &str, count: u32) {
    std::fs::create_dir_all(folder).unwrap();
    for i in 0..count {
        picture(i, 20, 24).save(folder.join(format!("{name}-{i:02}.png"))).unwrap();
    }
}

/// `pretrain --data DATA --out OUT` with the small settings and more arguments.
pub fn pretrain(data: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = mimco();
    command.arg("pretrain").arg("--data").arg(data).arg("--out").arg(out).args(SMALL).args(more);
    command
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The exit code, the last line of standard error, which is the error.
pub fn failure(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = stderr(&output);
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
    (output.status.code().unwrap_or(-1), text.trim_end().lines().last().unwrap_or_default().to_string())
}

/// Runs to the end; standard error.
pub fn success(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    stderr(&output)
}
