//! Failures: each is one line that names the file or setting, with exit code 1 (failed) or 2 (misused), and no file is lost or
//! half-written. The texts are in `snapshots.rs`.

mod common;

use common::{failure, fixture, mimco, picture, pictures, pretrain, success};
use std::fs;
use std::path::Path;

/// Checks that the command fails with this code and that its error has these words.
fn assert_fails(command: &mut std::process::Command, code: i32, words: &[&str]) {
    let (found, error) = failure(command);
    assert_eq!(found, code, "{error}");
    assert!(error.starts_with("error: "), "{error}");
    for word in words {
        assert!(error.contains(word), "no {word:?} in: {error}");
    }
}

#[test]
fn empty_and_missing_folders_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_fails(&mut pretrain(&empty, &out, &[]), 1, &["empty"]);
    assert_fails(&mut pretrain(&folder.path().join("gone"), &out, &[]), 1, &["gone"]);
    assert!(!out.exists(), "nothing was started");
}

#[test]
fn one_image_is_too_few_and_two_are_enough() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 1);
    assert_fails(&mut pretrain(&data, &out, &[]), 1, &["data"]);
    pictures(&data, "a", 2);
    let log = success(&mut pretrain(&data, &out, &[]));
    assert!(log.contains("2 images") && log.contains("batch"), "{log}");
    assert!(out.join("export/backbone.safetensors").exists());
}

#[test]
fn broken_images_are_skipped_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "good", 24);
    fs::write(data.join("text.jpg"), "not an image").unwrap();
    let mut jpeg = std::io::Cursor::new(Vec::new());
    picture(3, 40, 40).write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
    fs::write(data.join("short.jpg"), &jpeg.get_ref()[..jpeg.get_ref().len() / 2]).unwrap();
    fs::write(data.join("nothing.png"), "").unwrap();
    fs::write(data.join("huge.bmp"), bmp_header(20_000, 20_000)).unwrap();
    image::RgbImage::from_pixel(1, 1, image::Rgb([7, 8, 9])).save(data.join("dot.png")).unwrap();
    success(&mut pretrain(&data, &out, &[]));
    let log = fs::read_to_string(out.join("train.log")).unwrap();
    for name in ["text.jpg", "short.jpg", "nothing.png", "huge.bmp"] {
        assert!(log.contains(&format!("skipped {name}: ")), "{name} is not named in: {log}");
    }
    assert!(log.contains("20000x20000"), "{log}");
    assert!(!log.contains("dot.png"), "an image of one pixel is an image");
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("4 images"));
    let report = mimco().arg("check-data").arg(&data).arg("--json").output().unwrap();
    let report = String::from_utf8(report.stdout).unwrap();
    assert!(report.contains("\"images\":29") && report.contains("short.jpg") && report.lines().count() == 1, "{report}");
}

/// Returns the header of an uncompressed bitmap without its pixels.
fn bmp_header(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    for word in [54, 0, 54, 40, width, height, 24 << 16 | 1, 0, 0, 0, 0, 0, 0] {
        bytes.extend_from_slice(&u32::to_le_bytes(word));
    }
    bytes
}

#[test]
fn too_many_broken_images_stop_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "good", 20);
    (0..12).for_each(|i| fs::write(data.join(format!("bad-{i:02}.jpg")), "text").unwrap());
    assert_fails(&mut pretrain(&data, &out, &["data.max_broken=0.1"]), 1, &["32 images", "check-data", "data.max_broken"]);
    success(&mut pretrain(&data, &out, &["data.max_broken=0.5", "--overwrite"]));
}

#[cfg(unix)]
#[test]
fn a_file_without_read_permission_is_skipped() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "good", 16);
    let closed = data.join("closed.png");
    fs::copy(data.join("good-00.png"), &closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&closed).is_ok() {
        eprintln!("this user can read every file; a broken link replaces the closed one");
        fs::remove_file(&closed).unwrap();
        std::os::unix::fs::symlink("nowhere", &closed).unwrap();
    }
    success(&mut pretrain(&data, &out, &[]));
    assert!(fs::read_to_string(out.join("train.log")).unwrap().contains("skipped closed.png: "));
}

#[test]
fn unknown_and_impossible_settings_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 8);
    assert_fails(&mut pretrain(&data, &out, &["train.epoch=3"]), 2, &["train.epoch", "train.epochs"]);
    assert_fails(&mut pretrain(&data, &out, &["optim.lr=fast"]), 2, &["optim.lr"]);
    assert_fails(&mut pretrain(&data, &out, &["mask.unit=3"]), 2, &["mask.unit=3", "4"]);
    assert_fails(&mut pretrain(&data, &out, &["model.heads=7"]), 2, &["model.heads=7"]);
    assert_fails(&mut pretrain(&data, &out, &["--recipe", "mimco_photo"]), 2, &["mimco_photos"]);
    assert_fails(&mut pretrain(&data, &out, &["precision=f16"]), 2, &["precision"]);
    let (code, _) = failure(mimco().args(["pretrain", "--dat", "x"]));
    assert_eq!(code, 2);
    let (code, _) = failure(mimco().args(["knn", "--backbone", "x", "--train", "y", "--val", "z", "--k", "0"]));
    assert_eq!(code, 2);
    assert!(!out.exists());
}

#[test]
fn missing_broken_and_mismatched_teachers_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 8);
    let teach = |file: &Path, more: &[&str]| {
        let mut command = pretrain(&data, &out, &[]);
        // Without stage 1 its settings are unknown.
        command = without_moco(command);
        command.arg("--teacher").arg(file).args(more);
        command
    };
    assert_fails(&mut teach(&folder.path().join("gone.safetensors"), &[]), 1, &["gone.safetensors"]);
    let text = folder.path().join("text.safetensors");
    fs::write(&text, "not a tensor in sight").unwrap();
    assert_fails(&mut teach(&text, &[]), 1, &["text.safetensors"]);
    let trained = folder.path().join("teacher");
    success(pretrain(&data, &trained, &["--recipe", "moco_v3_photos", "train.epochs=1"]).arg("data.max_broken=0.02"));
    let backbone = trained.join("export/backbone.safetensors");
    assert_fails(&mut teach(&backbone, &["model.patch_size=8"]), 2, &["4x4", "model.patch_size=4"]);
    assert_fails(&mut teach(&backbone, &["mimco.teacher_layer=9"]), 2, &["1 to 6"]);
    assert!(!out.exists(), "nothing was started");
    let before = fs::read(&backbone).unwrap();
    success(&mut teach(&backbone, &["train.epochs=1"]));
    assert_eq!(fs::read(&backbone).unwrap(), before, "the teacher's bytes");
}

/// Other projects' checkpoints: one is refused by name, one needs a setting and then serves as a teacher with another patch size,
/// registers and LayerScale.
#[test]
fn foreign_checkpoints_are_refused_or_need_a_setting() {
    let folder = tempfile::tempdir().unwrap();
    let [data, out, converted] = ["data", "run", "converted"].map(|name| folder.path().join(name));
    let verb = |verb: &str, file: &str, more: &[&str]| {
        let mut command = mimco();
        command.arg(verb).arg(fixture(file)).args(more);
        command
    };
    assert_fails(&mut verb("inspect", "swin.pth", &[]), 1, &["swin.pth", "Swin"]);
    let to_timm = [converted.to_str().unwrap(), "--to", "timm"];
    assert_fails(&mut verb("convert", "dinov2_reg.pth", &to_timm), 2, &["dinov2_reg.pth", "model.heads"]);
    assert!(!converted.exists(), "nothing was started");
    success(verb("convert", "dinov2_reg.pth", &to_timm).arg("model.heads=3"));
    assert_fails(verb("convert", "dinov2_reg.pth", &to_timm).arg("model.heads=3"), 2, &["exists already", "--overwrite"]);

    pictures(&data, "a", 8);
    let teach = |more: &[&str]| {
        let mut command = without_moco(pretrain(&data, &out, &[]));
        command.arg("--teacher").arg(fixture("dinov2_reg.pth")).args(more);
        command
    };
    let sizes = ["train.epochs=1", "model.patch_size=7", "model.image_size=14", "teacher.model.image_size=14", "mask.unit=1"];
    assert_fails(&mut teach(&sizes), 2, &["teacher.model.heads"]);
    let log = success(teach(&sizes).arg("teacher.model.heads=3"));
    assert!(log.contains("DINOv2"), "{log}");
    let card = fs::read_to_string(out.join("export/README.md")).unwrap();
    assert!(card.contains("DINOv2 vit_w24d2_h3_patch7_reg2_ls_14") && card.contains("Apache-2.0"), "{card}");
}

/// Removes the settings of MoCo v3 from a command.
fn without_moco(command: std::process::Command) -> std::process::Command {
    let mut kept = mimco();
    kept.args(command.get_args().filter(|a| !a.to_string_lossy().starts_with("moco_v3.")));
    kept
}

#[test]
fn a_folder_with_other_files_or_another_run_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 8);
    assert_fails(&mut pretrain(&data, &data, &[]), 2, &["data", "--out"]);
    assert_fails(&mut pretrain(&data, &data, &["--overwrite"]), 2, &["data"]);
    success(&mut pretrain(&data, &out, &["train.epochs=1"]));
    assert_fails(&mut pretrain(&data, &out, &["train.epochs=3"]), 2, &["train.epochs", "3", "1", "--overwrite"]);
    let bytes = fs::read(out.join("export/backbone.safetensors")).unwrap();
    let log = success(&mut pretrain(&data, &out, &["train.epochs=1"]));
    assert!(log.contains("already finished"), "{log}");
    pictures(&data, "more", 3);
    assert_fails(&mut pretrain(&data, &out, &["train.epochs=1"]), 2, &["images"]);
    assert_eq!(fs::read(out.join("export/backbone.safetensors")).unwrap(), bytes);
}

#[test]
fn overwriting_removes_a_runs_files_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 8);
    let gone = folder.path().join("gone.safetensors");
    assert_fails(pretrain(&data, &out, &["train.epochs=1"]).arg("--init").arg(&gone), 1, &["gone.safetensors"]);
    assert!(!out.exists(), "nothing was started");
    success(&mut pretrain(&data, &out, &["train.epochs=1"]));
    let bytes = fs::read(out.join("export/backbone.safetensors")).unwrap();
    // A file that the new run reads is not removed, nor is anything else.
    let teacher = out.join("teacher/export/backbone.safetensors");
    let mut with_teacher = without_moco(pretrain(&data, &out, &["train.epochs=1", "--overwrite"]));
    assert_fails(with_teacher.arg("--teacher").arg(&teacher), 2, &["--overwrite"]);
    assert_eq!(fs::read(out.join("export/backbone.safetensors")).unwrap(), bytes);
    let other_files = ["notes.txt", "export/notes.txt", "teacher/notes.txt"];
    for mine in other_files {
        fs::write(out.join(mine), "mine").unwrap();
    }
    let log = success(&mut pretrain(&data, &out, &["train.epochs=1", "optim.lr=2e-3", "--overwrite"]));
    assert!(!log.contains("resumed"), "{log}");
    for mine in other_files {
        assert_eq!(fs::read_to_string(out.join(mine)).unwrap(), "mine");
    }
    assert_ne!(fs::read(out.join("export/backbone.safetensors")).unwrap(), bytes);
}

/// A limit on file sizes simulates a full disk: writing a checkpoint fails halfway.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_no_half_written_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 32);
    let whole = pretrain(&data, &out, &["train.checkpoint_steps=2"]);
    let limited = |blocks: u32| {
        let mut shell = std::process::Command::new("bash");
        // The limit sends a signal, which a full disk does not, so the shell ignores it. Blocks have 1,024 bytes.
        shell
            .arg("-c")
            .arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""))
            .arg(whole.get_program())
            .args(whole.get_args());
        shell
    };
    assert_fails(&mut limited(2000), 1, &["last.safetensors"]);
    let names: Vec<String> =
        fs::read_dir(out.join("teacher/checkpoints")).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert!(names.is_empty(), "nothing half-written: {names:?}");
    let log = success(&mut pretrain(&data, &out, &["train.checkpoint_steps=2"]));
    assert!(log.contains("finished"), "{log}");
}
