//! Texts and JSON keys of the program, compared with the files in `snapshots/`.
//!
//! `INSTA_UPDATE=always cargo test --release -p mimco-cli --test snapshots` accepts what has changed.

mod common;

use common::{fixture, mimco, picture, recipes, stdout, verbs};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Compares a text with the file `snapshots/NAME.snap`.
fn assert_snapshot(name: impl AsRef<str>, text: String) {
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name.as_ref(), text);
    });
}

#[test]
fn help_of_the_program_and_of_every_verb() {
    assert_snapshot("help", stdout(mimco().arg("--help")));
    for verb in verbs() {
        let name = format!("help-{}", verb.join("-"));
        assert_snapshot(name, stdout(mimco().args(&verb).arg("--help")));
    }
}

#[test]
fn resolved_settings_of_every_recipe() {
    for recipe in recipes() {
        let name = format!("config-{recipe}");
        assert_snapshot(name, stdout(mimco().args(["pretrain", "--print-config", "--recipe", &recipe, "precision=f32"])));
    }
}

#[test]
fn error_texts() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::create_dir_all(here.join("empty")).unwrap();
    for class in ["one", "set/a", "set/b"] {
        fs::create_dir_all(here.join(class)).unwrap();
        picture(1, 20, 20).save(here.join(class).join("image.png")).unwrap();
    }
    fs::write(here.join("text.safetensors"), "not a tensor in sight").unwrap();
    fs::write(here.join("broken.toml"), "method = ").unwrap();
    fs::write(here.join("unknown.toml"), "[train]\nepoch = 3\n").unwrap();
    let checkpoint = |name: &str| fixture(name).display().to_string();
    let (swin, dinov2) = (checkpoint("swin.pth"), checkpoint("dinov2_reg.pth"));
    let cases: &[&[&str]] = &[
        &["pretrain"],
        &["pretrian", "--data", "one"],
        &["pretrain", "--dat", "one"],
        &["pretrain", "--data", "missing", "--out", "run"],
        &["pretrain", "--data", "empty", "--out", "run"],
        &["pretrain", "--data", "one", "--out", "run"],
        &["pretrain", "--data", "set", "--out", "set/a"],
        &["pretrain", "--data", "set", "--out", "run", "--teacher", "missing.safetensors"],
        &["pretrain", "--data", "set", "--out", "run", "--teacher", "text.safetensors"],
        &["pretrain", "--print-config", "--recipe", "mimco_photo"],
        &["pretrain", "--print-config", "--recipe", "missing.toml"],
        &["pretrain", "--print-config", "--recipe", "broken.toml"],
        &["pretrain", "--print-config", "--recipe", "unknown.toml"],
        &["pretrain", "--print-config", "train.epoch=3"],
        &["pretrain", "--print-config", "optim.lr=fast"],
        &["pretrain", "--print-config", "precision=f16"],
        &["pretrain", "--print-config", "model.heads=7"],
        &["pretrain", "--print-config", "mask.unit=3"],
        &["pretrain", "--print-config", "train.batch_size=1"],
        &["pretrain", "--print-config", "train.epochs"],
        &["pretrain", "--print-config", "method=moco_v3"],
        &["knn", "--backbone", "missing", "--train", "one", "--val", "one", "--k", "0"],
        &["knn", "--backbone", "text.safetensors", "--train", "one", "--val", "one"],
        &["knn", "--backbone", "text.safetensors", "--train", "set", "--val", "set"],
        &["embed", "--backbone", "text.safetensors", "--data", "one", "--out", "features.txt"],
        &["inspect", "missing.pth"],
        &["inspect", &swin],
        &["convert", &dinov2, "out", "--to", "timm"],
        &["check-data", "missing"],
        &["pack", "empty", "--out", "packed"],
        &["man", "set/a/image.png"],
        &["bench", "gemm", "3x4"],
        &["bench", "data", "one", "--seconds", "0"],
    ];
    let mut all = String::new();
    for case in cases {
        let output = mimco().current_dir(here).args(*case).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        let code = output.status.code().unwrap();
        all += &format!("$ mimco {}\n{}exit code {code}\n\n", case.join(" "), error);
    }
    let fixtures = fixture("").display().to_string();
    insta::with_settings!({ filters => vec![
        (regex_of(here).as_str(), "[folder]"),
        (regex_of(Path::new(fixtures.trim_end_matches('/'))).as_str(), "[checkpoints]"),
        (r"computing on .*\n", ""),
    ] }, {
        assert_snapshot("errors", all);
    });
}

/// Returns a regular expression that matches this path.
fn regex_of(path: &Path) -> String {
    path.display().to_string().replace('.', r"\.").replace('+', r"\+")
}

#[test]
fn json_keys_of_the_quick_verbs() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for (class, numbers) in [("a", 0..4), ("b", 4..8)] {
        fs::create_dir_all(here.join("set").join(class)).unwrap();
        numbers.for_each(|i| picture(i, 20, 24).save(here.join("set").join(class).join(format!("{i}.png"))).unwrap());
    }
    let moco = fixture("moco_v3.pth.tar").display().to_string();
    let cases: &[&[&str]] = &[
        &["pretrain", "--print-config", "precision=f32"],
        &["knn", "--backbone", &moco, "--train", "set", "--val", "set", "--k", "3", "model.heads=3"],
        &["linear", "--backbone", &moco, "--train", "set", "--val", "set", "model.heads=3"],
        &["embed", "--backbone", &moco, "--data", "set", "--out", "features.npy", "model.heads=3"],
        &["inspect", &moco, "model.heads=3"],
        &["convert", &moco, "vit-timm", "--to", "timm", "model.heads=3"],
        &["check-data", "set"],
        &["pack", "set", "--out", "packed"],
        &["bench", "gemm", "16x16x16", "--precision", "f32", "--repeats", "1"],
        &["bench", "data", "set", "--seconds", "0.01"],
    ];
    for case in cases {
        let text = stdout(mimco().current_dir(here).args(*case).arg("--json"));
        assert_eq!(text.lines().count(), 1, "{text}");
        let name = format!("json-{}", if case[0] == "bench" { case[..2].join("-") } else { case[0].to_string() });
        let mut keys = String::new();
        describe(&serde_json::from_str(&text).unwrap(), "", &mut keys);
        assert_snapshot(name, keys);
    }
}

/// Appends a line for every value: its path and its type. Arrays are described by their first element.
fn describe(value: &Value, path: &str, lines: &mut String) {
    let mut leaf = |kind: &str| *lines += &format!("{path}: {kind}\n");
    match value {
        Value::Null => leaf("null"),
        Value::Bool(_) => leaf("boolean"),
        Value::Number(_) => leaf("number"),
        Value::String(_) => leaf("string"),
        Value::Array(array) => match array.first() {
            None => leaf("[]"),
            Some(first) => describe(first, &format!("{path}[]"), lines),
        },
        Value::Object(object) => {
            let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
            object.iter().for_each(|(key, value)| describe(value, &format!("{prefix}{key}"), lines));
        }
    }
}

#[test]
fn what_inspect_and_check_data_print() {
    let moco = fixture("moco_v3.pth.tar");
    assert_snapshot("text-inspect", stdout(mimco().arg("inspect").arg(&moco).arg("model.heads=3")));
    let folder = tempfile::tempdir().unwrap();
    (0..3).for_each(|i| picture(i, 20 + i, 40).save(folder.path().join(format!("{i}.png"))).unwrap());
    fs::copy(folder.path().join("0.png"), folder.path().join("copy.jpg")).unwrap();
    fs::write(folder.path().join("broken.jpg"), "text").unwrap();
    assert_snapshot("text-check-data", stdout(mimco().arg("check-data").arg(folder.path())));
}

#[test]
fn the_model_card_of_an_export() {
    let folder = tempfile::tempdir().unwrap();
    let (moco, out) = (fixture("moco_v3.pth.tar"), folder.path().join("vit"));
    stdout(mimco().arg("convert").arg(&moco).arg(&out).args(["--to", "timm", "model.heads=3"]));
    assert_snapshot("model-card", fs::read_to_string(out.join("README.md")).unwrap());
}
