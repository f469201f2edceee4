//! Runs the built program on small sets of images.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Settings of a small model and a run of seconds: 16 px, 16 patches.
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

/// Returns the program without arguments.
pub fn mimco() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mimco"));
    command.env_remove("RAYON_NUM_THREADS");
    command
}

/// Returns an image of colored stripes, a different pattern for each number.
pub fn picture(number: u32, width: u32, height: u32) -> image::RgbImage {
    let shade = |x: u32, k: u32| (x * (3 + number * k % 7) * 16 % 256) as u8;
    image::RgbImage::from_fn(width, height, |x, y| image::Rgb([shade(x, 1), shade(y, 2), shade(x + y, 3)]))
}

/// Writes `folder/NAME-00.png`, ... of 20 x 24 pixels.
pub fn pictures(folder: &Path, name: &str, count: u32) {
    std::fs::create_dir_all(folder).unwrap();
    for i in 0..count {
        picture(i, 20, 24).save(folder.join(format!("{name}-{i:02}.png"))).unwrap();
    }
}

/// Returns `pretrain --data DATA --out OUT` with the small settings and more arguments.
pub fn pretrain(data: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = mimco();
    command.arg("pretrain").arg("--data").arg(data).arg("--out").arg(out).args(SMALL).args(more);
    command
}

/// Returns the standard error of a finished command.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs to the end; returns the exit code and the last line of standard error, which is the error.
pub fn failure(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = stderr(&output);
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
    (output.status.code().unwrap_or(-1), text.trim_end().lines().last().unwrap_or_default().to_string())
}

/// Runs to the end; returns standard error.
pub fn success(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    stderr(&output)
}

/// Runs to the end; returns standard output.
pub fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the program's verbs, those of `bench` with both words, as its help lists them.
pub fn verbs() -> Vec<Vec<String>> {
    let listed = |verb: &[String]| -> Vec<String> {
        let help = stdout(mimco().args(verb).arg("-h"));
        let commands = help.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
        let names = commands.lines().filter_map(|line| line.split_whitespace().next());
        names.filter(|name| *name != "help").map(str::to_string).collect()
    };
    let mut all = Vec::new();
    for verb in listed(&[]) {
        let inner = listed(std::slice::from_ref(&verb));
        all.push(vec![verb.clone()]);
        all.extend(inner.into_iter().map(|inner| vec![verb.clone(), inner]));
    }
    all
}

/// Returns the names of the built-in recipes, sorted.
pub fn recipes() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = files.map(|file| file.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Returns the path of a small checkpoint of another project.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../mimco/tests/fixtures/checkpoints").join(name)
}
