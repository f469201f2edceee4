//! The verbs as people and scripts use them: their output and their files.

mod common;

use common::{mimco, picture, pretrain, success};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Returns the JSON object on the only line of standard output.
fn json(command: &mut Command) -> serde_json::Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", common::stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Writes `train/` and `validation/` with two classes that differ in color. One class name has a space and an accent.
fn labeled_set(folder: &Path) {
    for (part, count) in [("train", 24), ("validation", 8)] {
        for (class, channel) in [("blue things", 2), ("rouge é", 0)] {
            let place = folder.join(part).join(class);
            fs::create_dir_all(&place).unwrap();
            for i in 0..count {
                let mut image = picture(i + 40 * channel as u32, 20, 20);
                image.pixels_mut().for_each(|p| p[channel] = p[channel] / 2 + 128);
                image.pixels_mut().for_each(|p| p[2 - channel] /= 4);
                image.save(place.join(format!("{i:02}.png"))).unwrap();
            }
        }
    }
}

#[test]
fn from_a_labelled_folder_to_figures_and_features() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    labeled_set(&data);
    let done = json(pretrain(&data, &out, &["--json"]).arg("train.knn_k=5"));
    assert_eq!(done["stages"].as_array().unwrap().len(), 2);
    for stage in [&out, &out.join("teacher")] {
        for name in ["config.toml", "environment.json", "train.log", "checkpoints/last.safetensors", "checkpoints/best.safetensors"] {
            assert!(stage.join(name).is_file(), "{name}");
        }
        for name in ["export/backbone.safetensors", "export/config.json", "report.html", "events.out.tfevents.0.mimco"] {
            assert!(stage.join(name).is_file(), "{name}");
        }
        let metrics = fs::read_to_string(stage.join("metrics.jsonl")).unwrap();
        for name in ["train/loss", "train/loss_image", "train/acc_image", "optim/lr", "optim/grad_norm", "perf/img_per_s", "perf/data_wait"]
        {
            assert!(metrics.contains(&format!("\"{name}\":")), "{name}");
        }
        for name in ["perf/mfu", "eval/knn_top1", "health/rankme", "health/feature_std"] {
            assert!(metrics.contains(&format!("\"{name}\":")), "{name}");
        }
    }
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert!(["train/loss_patch", "train/acc_patch", "health/teacher_alignment"].iter().all(|name| metrics.contains(name)));

    let backbone = out.join("export/backbone.safetensors");
    let sets = |verb: &str, backbone: &Path| {
        let mut command = mimco();
        command.arg(verb).arg("--backbone").arg(backbone).arg("--train").arg(data.join("train"));
        command.arg("--val").arg(data.join("validation")).arg("--json");
        command
    };
    let knn = json(sets("knn", &backbone).args(["--k", "5"]))["knn_top1"].as_f64().unwrap();
    let linear = json(&mut sets("linear", &backbone))["linear_top1"].as_f64().unwrap();
    assert!(knn > 80.0 && linear > 80.0, "the classes differ in color: {knn} {linear}");
    // A checkpoint is a backbone too; the best one has the best accuracy in the metrics.
    let best = json(sets("knn", &out.join("checkpoints/best.safetensors")).args(["--k", "5"]))["knn_top1"].as_f64().unwrap();
    let seen: Vec<f64> =
        metrics.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok()?["eval/knn_top1"].as_f64()).collect();
    assert!((best - seen.iter().copied().fold(0.0, f64::max)).abs() < 1e-9, "{best} of {seen:?}");

    // Features with their names; each is independent of the other images of the set.
    let embed = |data: &Path, out: &Path| {
        json(mimco().arg("embed").arg("--backbone").arg(&backbone).arg("--data").arg(data).arg("--out").arg(out).arg("--json"))
    };
    let (all, one) = (folder.path().join("all.npy"), folder.path().join("one.npy"));
    assert_eq!(embed(&data.join("validation"), &all)["images"], 16);
    assert_eq!(embed(&data.join("validation/rouge é"), &one)["width"], 128);
    let names = fs::read_to_string(folder.path().join("all.names.txt")).unwrap();
    assert_eq!((names.lines().next(), names.lines().nth(8)), (Some("blue things/00.png"), Some("rouge é/00.png")));
    let rows = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        bytes[10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize..].to_vec()
    };
    assert_eq!(rows(&all)[8 * 4 * 128..], rows(&one)[..], "bit for bit");
}

#[test]
fn printed_settings_are_a_recipe_for_the_same_settings() {
    let folder = tempfile::tempdir().unwrap();
    let print = |more: &[&str]| {
        let output = mimco().args(["pretrain", "--print-config"]).args(more).output().unwrap();
        assert!(output.status.success(), "{}", common::stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let first = print(&["seed=3", "model.heads=6", "teacher.train.epochs=9", "data.mean=[0.1, 0.2, 0.3]"]);
    assert!(first.contains("seed = 3") && first.contains("heads = 6") && first.contains("mean = [0.1, 0.2, 0.3]"), "{first}");
    let path = folder.path().join("mine.toml");
    fs::write(&path, &first).unwrap();
    assert_eq!(print(&["--recipe", path.to_str().unwrap()]), first);
}

#[test]
fn bench_prints_its_figures() {
    let step = ["bench", "step", "--model", "tiny", "--step", "mimco", "--batch", "2", "--steps", "2", "--precision", "f32", "--json"];
    let found = json(mimco().args(step).args(["--threads", "2"]));
    for figure in ["img_per_s", "best_img_per_s", "peak_mib", "mfu"] {
        assert!(found[figure].as_f64().is_some_and(|v| v > 0.0), "{figure} in {found}");
    }
    assert_eq!((found["step"].as_str(), found["precision"].as_str(), found["threads"].as_u64()), (Some("mimco"), Some("f32"), Some(2)));
    let found = json(mimco().args(["bench", "gemm", "17x33x65", "--repeats", "3", "--json"]));
    assert_eq!(found["products"][0]["shape"], serde_json::json!([17, 33, 65]));
    let folder = tempfile::tempdir().unwrap();
    picture(1, 40, 30).save(folder.path().join("a.png")).unwrap();
    picture(2, 30, 40).save(folder.path().join("b.png")).unwrap();
    for pipeline in ["mim", "moco"] {
        let mut command = mimco();
        command.args(["bench", "data"]).arg(folder.path()).args(["--pipeline", pipeline, "--seconds", "0.1", "--threads", "1", "--json"]);
        assert!(json(&mut command)["img_per_s"].as_f64().is_some_and(|v| v > 0.0));
    }
    for wrong in ["3x4", "3x4x5x6", "3x4x5xjunk", "0x4x5"] {
        assert_eq!(mimco().args(["bench", "gemm", wrong]).output().unwrap().status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn completions_contain_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let output = mimco().args(["completions", shell]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(["pretrain", "check-data", "embed"].iter().all(|verb| text.contains(verb)), "{shell}");
    }
}

#[test]
fn manual_pages_are_written_for_the_program_and_every_verb() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/man1");
    common::stdout(mimco().arg("man").arg(&out));
    let read = |name: &str| fs::read_to_string(out.join(format!("{name}.1"))).unwrap();
    assert!(read("mimco").contains("pretrain"));
    for verb in common::verbs() {
        let page = read(&format!("mimco-{}", verb.join("-")));
        assert!(page.contains(".TH") && page.contains("SYNOPSIS"), "{verb:?}: {page}");
    }
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(common::failure(mimco().arg("man").arg(&file)).0, 1);
}

/// Runs the demo with few patches and epochs and checks its files, not its accuracy.
#[test]
fn the_demo_writes_its_table_and_a_second_run_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo");
    let run = || {
        let mut command = mimco();
        command.arg("demo").arg("--out").arg(&out).args(["--json", "train.epochs=1", "model.patch_size=14", "mask.unit=1"]);
        command
    };
    let printed = json(&mut run());
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!(printed, summary);
    assert!(summary["dataset"].as_str().unwrap().contains("Fashion-MNIST") && summary["seconds"].as_f64().unwrap() > 0.0);
    let rows = summary["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["pixels", "random", "teacher", "student"]);
    for row in rows {
        assert!(row["method"].is_string() && row["epochs"].is_u64() && row["seconds"].is_number());
        assert!(row["knn_top1"].as_f64().unwrap() > 30.0 && row["linear_top1"].as_f64().unwrap() > 30.0, "{row}");
    }
    // Raw pixels need no training, so their row does not depend on it.
    assert!((rows[0]["knn_top1"].as_f64().unwrap() - 82.0).abs() < 0.5, "{}", rows[0]);
    let report = fs::read(out.join("report.html")).unwrap();
    assert!(String::from_utf8_lossy(&report).contains("data:image/png;base64,"));
    let again = success(&mut run());
    assert!(again.contains("finished"), "{again}");
    assert_eq!(fs::read(out.join("report.html")).unwrap(), report);
}
