//! Runs that are killed or interrupted end with the same bytes as an undisturbed run.

mod common;

use common::{pictures, pretrain, stderr, success};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Returns every line of a run's metrics without `perf/*`.
fn metrics(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let all: BTreeMap<String, serde_json::Value> = serde_json::from_str(line).unwrap();
            let kept: BTreeMap<_, _> = all.into_iter().filter(|(name, _)| !name.starts_with("perf/")).collect();
            serde_json::to_string(&kept).unwrap()
        })
        .collect()
}

/// Returns the exports and checkpoints of both stages.
fn files(folder: &Path) -> [Vec<u8>; 4] {
    [
        "teacher/export/backbone.safetensors",
        "export/backbone.safetensors",
        "teacher/checkpoints/last.safetensors",
        "checkpoints/last.safetensors",
    ]
    .map(|name| std::fs::read(folder.join(name)).unwrap())
}

/// Starts the command and kills it after the `line`-th log line that contains `word`. Returns the log.
fn kill_at(data: &Path, out: &Path, more: &[&str], word: &str, line: usize) -> Vec<String> {
    let mut child = pretrain(data, out, more).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = Vec::new();
    let mut seen = 0;
    for text in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        seen += text.contains(word) as usize;
        log.push(text);
        if seen == line {
            child.kill().unwrap(); // SIGKILL
            break;
        }
    }
    child.wait().unwrap();
    log
}

/// Returns the step that a log reports as resumed.
fn resumed_at(log: &[String]) -> Option<u64> {
    log.iter().find_map(|line| line.strip_prefix("resumed at step ")?.parse().ok())
}

#[test]
fn a_run_that_is_killed_repeatedly_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    pictures(&data, "a", 40);
    // A queue and drop path are on, so that everything with a state or random numbers takes part.
    let settings = ["train.checkpoint_steps=2", "train.epochs=3", "mimco.image_loss=queue", "model.drop_path=0.1", "train.log_steps=3"];
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    success(&mut pretrain(&data, &at("whole"), &settings));
    success(pretrain(&data, &at("one"), &settings).args(["--threads", "1"]));
    assert_eq!(files(&at("whole")), files(&at("one")), "the number of threads changes nothing");

    let mut last = 0;
    // Lines "epoch E/3 step S/15" come every third step of a stage's 15.
    for (threads, line) in [("1", 1), ("2", 2), ("1", 2), ("3", 3), ("2", 2)] {
        let mut more = settings.to_vec();
        more.extend(["--threads", threads]);
        let log = kill_at(&data, &at("killed"), &more, "img/s", line);
        let resumed = resumed_at(&log);
        assert!(last == 0 || resumed > Some(last), "resumed at {resumed:?} after {last}: {log:?}");
        last = resumed.unwrap_or(1);
    }
    success(&mut pretrain(&data, &at("killed"), &settings));
    assert_eq!(files(&at("whole")), files(&at("killed")));
    for stage in ["", "teacher"] {
        assert_eq!(metrics(&at("whole").join(stage)), metrics(&at("killed").join(stage)));
    }
}

#[test]
fn a_killed_run_on_shards_sees_the_same_samples_as_an_undisturbed_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    pictures(&at("images"), "a", 40);
    for (shard, numbers) in [("set-0.tar", 0..25), ("set-1.tar", 25..40)] {
        let mut archive = tar::Builder::new(std::fs::File::create(at(shard)).unwrap());
        for number in numbers {
            let name = format!("a-{number:02}.png");
            archive.append_path_with_name(at("images").join(&name), &name).unwrap();
        }
        archive.finish().unwrap();
    }
    let settings = ["--recipe", "moco_v3_photos", "train.checkpoint_steps=2", "train.epochs=3"];
    let export = |run: &str| std::fs::read(at(run).join("export/backbone.safetensors")).unwrap();
    let data = at("set-{0..1}.tar");
    success(&mut pretrain(&data, &at("whole"), &settings));
    for line in [3, 4] {
        kill_at(&data, &at("killed"), &settings, "img/s", line);
    }
    let log = success(&mut pretrain(&data, &at("killed"), &settings));
    assert!(log.contains("resumed at step"), "{log}");
    assert_eq!(export("whole"), export("killed"));
    assert_eq!(metrics(&at("whole")), metrics(&at("killed")));
    // Every loss equals that of a run on the folder which the shards were made from.
    success(&mut pretrain(&at("images"), &at("folder"), &settings));
    assert_eq!(metrics(&at("whole")), metrics(&at("folder")));
}

#[test]
fn files_that_are_deleted_during_a_run_are_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 40);
    let settings = ["--recipe", "moco_v3_photos", "train.epochs=6"];
    let mut child = pretrain(&data, &out, &settings).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    lines.find(|line| line.contains("img/s")).unwrap();
    (0..3).for_each(|i| std::fs::remove_file(data.join(format!("a-{i:02}.png"))).unwrap());
    // The folder itself is missing for a moment, as when a mount drops.
    std::fs::rename(&data, folder.path().join("moved")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    std::fs::rename(folder.path().join("moved"), &data).unwrap();
    let rest: Vec<String> = lines.collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("again") || line.contains("retry")), "{rest:?}");
    let log = std::fs::read_to_string(out.join("train.log")).unwrap();
    for i in 0..3 {
        assert!(log.contains(&format!("skipped a-{i:02}.png: ")), "{log}");
    }
    assert!(std::fs::read_to_string(out.join("report.html")).unwrap().contains("3 images"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_writes_a_checkpoint_and_exits_130() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 40);
    let settings = ["train.epochs=3"];
    success(&mut pretrain(&data, &folder.path().join("whole"), &settings));
    for signal in ["INT", "TERM"] {
        let mut child = pretrain(&data, &out, &settings).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        lines.find(|line| line.contains("img/s")).unwrap();
        std::process::Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        let rest: Vec<String> = lines.collect();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
        assert!(rest.iter().any(|line| line.contains("interrupted at step")), "{rest:?}");
    }
    let log = success(&mut pretrain(&data, &out, &settings));
    assert!(log.contains("resumed at step"), "{log}");
    assert_eq!(files(&folder.path().join("whole")), files(&out));
}

#[test]
fn ten_steps_in_a_row_that_are_not_finite_stop_the_run_and_keep_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 40);
    let settings = ["--recipe", "moco_v3_photos", "train.epochs=5", "train.checkpoint_steps=1"];
    kill_at(&data, &out, &settings, "img/s", 3);
    // One weight of the checkpoint becomes NaN, so every later loss is NaN.
    let path = out.join("checkpoints/last.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let data_start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let head: serde_json::Value = serde_json::from_slice(&bytes[8..data_start]).unwrap();
    let weight = data_start + head["parameter.base_encoder.norm.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[weight..weight + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let output = pretrain(&data, &out, &settings).output().unwrap();
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert_eq!(log.matches("step skipped").count(), 10, "{log}");
    assert!(log.trim_end().lines().last().unwrap().contains("10 "), "{log}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "the checkpoint is unchanged");
}

#[test]
fn a_diverging_run_writes_no_bad_checkpoint_and_no_export() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 40);
    for (rate, epochs) in [("optim.lr=1e14", "train.epochs=6"), ("optim.lr=1e38", "train.epochs=1")] {
        let settings = ["--recipe", "moco_v3_photos", "--overwrite", "train.checkpoint_steps=1", "train.warmup=0.5", rate, epochs];
        let output = pretrain(&data, &out, &settings).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(!out.join("export/backbone.safetensors").exists());
        if let Ok(bytes) = std::fs::read(out.join("checkpoints/last.safetensors")) {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(100_000)]).into_owned();
            assert!(text.contains(r#"\"skipped_in_a_row\":0"#), "a checkpoint written between bad steps");
        }
    }
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 40);
    let mut first = pretrain(&data, &out, &["train.epochs=50"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(first.stderr.take().unwrap()).lines().map_while(Result::ok);
    lines.find(|line| line.contains("img/s")).unwrap();
    let second = pretrain(&data, &out, &["train.epochs=50"]).output().unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("another run"), "{}", stderr(&second));
}
