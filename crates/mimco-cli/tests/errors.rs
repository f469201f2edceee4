//! What goes wrong outside: each is one line that says what to do, exit code 1 (failed) or 2 (misused), and nothing is lost or half-written.

mod common;

use common::{failure, mimco, picture, pictures, pretrain, success};
use std::fs;
use std::path::Path;

/// The command fails with this code, and its error has these words.
fn assert_fails(command: &mut std::process::Command, code: i32, words: &[&str]) {
    let (found, error) = failure(command);
    assert_eq!(found, code, "{error}");
    assert!(error.starts_with("error: "), "{error}");
    for word in words {
        assert!(error.contains(word), "no {word:?} in: {error}");
    }
}

#[test]
fn an_empty_folder_and_one_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_fails(&mut pretrain(&empty, &out, &[]), 1, &["empty", "holds no images", "give a folder that does"]);
    assert_fails(&mut pretrain(&folder.path().join("gone"), &out, &[]), 1, &["gone", "is not there", "check the path"]);
    assert!(!out.exists(), "nothing was begun");
}

#[test]
fn one_image_is_too_few_and_two_are_enough() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 1);
    assert_fails(&mut pretrain(&data, &out, &[]), 1, &["one image", "two are the least"]);
    pictures(&data, "a", 2);
    let said = success(&mut pretrain(&data, &out, &[]));
    assert!(said.contains("2 images are fewer than a batch of 8") && said.contains("batches of 2"), "{said}");
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
    assert!(log.contains("20000x20000 pixels are over the limit"), "{log}");
    assert!(!log.contains("dot.png"), "an image of one pixel is an image");
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("4 images could not be read"));
    // A file that may not be read: not a test for root, who may read everything.
    let report = mimco().arg("check-data").arg(&data).arg("--json").output().unwrap();
    let report = String::from_utf8(report.stdout).unwrap();
    assert!(report.contains("\"images\":29") && report.contains("short.jpg") && report.lines().count() == 1, "{report}");
}

/// The head of an uncompressed bitmap, its pixels missing.
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
    assert_fails(
        &mut pretrain(&data, &out, &["data.max_broken=0.1"]),
        1,
        &["of 32 images cannot be read", "check-data", "data.max_broken"],
    );
    success(&mut pretrain(&data, &out, &["data.max_broken=0.5", "--overwrite"]));
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_be_read_is_skipped() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "good", 16);
    let closed = data.join("closed.png");
    fs::copy(data.join("good-00.png"), &closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&closed).is_ok() {
        eprintln!("skipped: this user may read everything; a link to nowhere stands in");
        fs::remove_file(&closed).unwrap();
        std::os::unix::fs::symlink("nowhere", &closed).unwrap();
    }
    success(&mut pretrain(&data, &out, &[]));
    assert!(fs::read_to_string(out.join("train.log")).unwrap().contains("skipped closed.png: cannot be read"));
}

#[test]
fn settings_that_do_not_exist_or_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 8);
    assert_fails(&mut pretrain(&data, &out, &["train.epoch=3"]), 2, &["train.epoch", "did you mean train.epochs?"]);
    assert_fails(&mut pretrain(&data, &out, &["optim.lr=fast"]), 2, &["optim.lr"]);
    assert_fails(&mut pretrain(&data, &out, &["mask.unit=3"]), 2, &["mask.unit=3", "divisor of 4"]);
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
fn a_teacher_that_is_missing_or_no_teacher_or_of_another_grid() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 8);
    let teach = |file: &Path, more: &[&str]| {
        let mut command = pretrain(&data, &out, &[]);
        // The settings of stage 1 are unknown to stage 2 alone.
        command = without_moco(command);
        command.arg("--teacher").arg(file).args(more);
        command
    };
    assert_fails(&mut teach(&folder.path().join("gone.safetensors"), &[]), 1, &["gone.safetensors", "check the path"]);
    let text = folder.path().join("text.safetensors");
    fs::write(&text, "not a tensor in sight").unwrap();
    assert_fails(&mut teach(&text, &[]), 1, &["is neither a safetensors file"]);
    let trained = folder.path().join("teacher");
    success(pretrain(&data, &trained, &["--recipe", "moco_v3_photos", "train.epochs=1"]).arg("data.max_broken=0.02"));
    let backbone = trained.join("export/backbone.safetensors");
    assert_fails(&mut teach(&backbone, &["model.patch_size=8"]), 2, &["4x4 patches of 4 px", "model.patch_size=4"]);
    assert_fails(&mut teach(&backbone, &["mimco.teacher_layer=9"]), 2, &["blocks 1 to 6"]);
    assert!(!out.exists(), "nothing was begun");
    let before = fs::read(&backbone).unwrap();
    success(&mut teach(&backbone, &["train.epochs=1"]));
    assert_eq!(fs::read(&backbone).unwrap(), before, "the teacher's bytes");
}

/// Others' checkpoints: refused by name, asked what they do not tell, and then taken as teacher with another patch, registers and LayerScale.
#[test]
fn foreign_checkpoints_are_refused_asked_or_taken() {
    let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../mimco/tests/fixtures/checkpoints").join(name);
    let folder = tempfile::tempdir().unwrap();
    let [data, out, converted] = ["data", "run", "converted"].map(|name| folder.path().join(name));
    let verb = |verb: &str, file: &str, more: &[&str]| {
        let mut command = mimco();
        command.arg(verb).arg(fixture(file)).args(more);
        command
    };
    assert_fails(&mut verb("inspect", "swin.pth", &[]), 1, &["swin.pth", "Swin", "plain ViT"]);
    let to_timm = [converted.to_str().unwrap(), "--to", "timm"];
    assert_fails(&mut verb("convert", "dinov2_reg.pth", &to_timm), 2, &["dinov2_reg.pth", "set model.heads"]);
    assert!(!converted.exists(), "nothing was begun");
    success(verb("convert", "dinov2_reg.pth", &to_timm).arg("model.heads=3"));
    assert_fails(verb("convert", "dinov2_reg.pth", &to_timm).arg("model.heads=3"), 2, &["exists already", "--overwrite"]);

    pictures(&data, "a", 8);
    let teach = |more: &[&str]| {
        let mut command = without_moco(pretrain(&data, &out, &[]));
        command.arg("--teacher").arg(fixture("dinov2_reg.pth")).args(more);
        command
    };
    let sizes = ["train.epochs=1", "model.patch_size=7", "model.image_size=14", "teacher.model.image_size=14", "mask.unit=1"];
    assert_fails(&mut teach(&sizes), 2, &["set teacher.model.heads"]);
    let said = success(teach(&sizes).arg("teacher.model.heads=3"));
    assert!(said.contains("DINOv2; encoder") || said.contains("of DINOv2"), "{said}");
    let card = fs::read_to_string(out.join("export/README.md")).unwrap();
    assert!(card.contains("| teacher | DINOv2 vit_w24d2_h3_patch7_reg2_ls_14 |") && card.contains("Apache-2.0"), "{card}");
}

fn without_moco(command: std::process::Command) -> std::process::Command {
    let mut kept = mimco();
    kept.args(command.get_args().filter(|a| !a.to_string_lossy().starts_with("moco_v3.")));
    kept
}

#[test]
fn a_folder_of_somebody_elses_or_of_another_run() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 8);
    assert_fails(&mut pretrain(&data, &data, &[]), 2, &["holds other files", "give --out an empty or new folder"]);
    assert_fails(&mut pretrain(&data, &data, &["--overwrite"]), 2, &["holds other files"]);
    success(&mut pretrain(&data, &out, &["train.epochs=1"]));
    assert_fails(&mut pretrain(&data, &out, &["train.epochs=3"]), 2, &["other settings", "train.epochs is 3, was 1", "--overwrite"]);
    let bytes = fs::read(out.join("export/backbone.safetensors")).unwrap();
    let said = success(&mut pretrain(&data, &out, &["train.epochs=1"]));
    assert!(said.contains("finished already"), "{said}");
    pictures(&data, "more", 3);
    assert_fails(&mut pretrain(&data, &out, &["train.epochs=1"]), 2, &["other images, another teacher"]);
    assert_eq!(fs::read(out.join("export/backbone.safetensors")).unwrap(), bytes);
}

#[test]
fn overwriting_removes_a_runs_files_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 8);
    let gone = folder.path().join("gone.safetensors");
    assert_fails(pretrain(&data, &out, &["train.epochs=1"]).arg("--init").arg(&gone), 1, &["gone.safetensors"]);
    assert!(!out.exists(), "nothing was begun");
    success(&mut pretrain(&data, &out, &["train.epochs=1"]));
    let bytes = fs::read(out.join("export/backbone.safetensors")).unwrap();
    // What the new run would begin from is not removed, and nothing else is either.
    let teacher = out.join("teacher/export/backbone.safetensors");
    let mut with_teacher = without_moco(pretrain(&data, &out, &["train.epochs=1", "--overwrite"]));
    assert_fails(with_teacher.arg("--teacher").arg(&teacher), 2, &["--overwrite would remove", "copy it elsewhere"]);
    assert_eq!(fs::read(out.join("export/backbone.safetensors")).unwrap(), bytes);
    for mine in ["notes.txt", "export/notes.txt", "teacher/notes.txt"] {
        fs::write(out.join(mine), "mine").unwrap();
    }
    let said = success(&mut pretrain(&data, &out, &["train.epochs=1", "optim.lr=2e-3", "--overwrite"]));
    assert!(!said.contains("resumed"), "{said}");
    for mine in ["notes.txt", "export/notes.txt", "teacher/notes.txt"] {
        assert_eq!(fs::read_to_string(out.join(mine)).unwrap(), "mine");
    }
    assert_ne!(fs::read(out.join("export/backbone.safetensors")).unwrap(), bytes);
}

/// A limit on the size of a file stands in for a full disk: writing fails half way through a checkpoint.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_while_a_checkpoint_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    pictures(&data, "a", 32);
    let whole = pretrain(&data, &out, &["train.checkpoint_steps=2"]);
    let limited = |blocks: u32| {
        let mut shell = std::process::Command::new("bash");
        // The signal that comes with the limit is ignored, as on a full disk there is none. Blocks are of 1,024 bytes.
        shell
            .arg("-c")
            .arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""))
            .arg(whole.get_program())
            .args(whole.get_args());
        shell
    };
    assert_fails(&mut limited(2000), 1, &["last.safetensors", "cannot be written", "run the same command again"]);
    let names: Vec<String> =
        fs::read_dir(out.join("teacher/checkpoints")).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert!(names.is_empty(), "nothing half-written: {names:?}");
    let said = success(&mut pretrain(&data, &out, &["train.checkpoint_steps=2"]));
    assert!(said.contains("finished: "), "{said}");
}
