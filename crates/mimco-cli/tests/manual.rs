//! The manual and the README agree with the program: verbs, flags, settings and their defaults.

mod common;

use common::{fixture, mimco, stdout, verbs};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// Returns the README and all pages of the manual with their names.
fn pages() -> Vec<(String, String)> {
    let mut all = vec![("README.md".to_string(), page("README.md"))];
    for entry in std::fs::read_dir(root().join("docs/src")).unwrap() {
        let name = format!("docs/src/{}", entry.unwrap().file_name().to_string_lossy());
        if name.ends_with(".md") {
            all.push((name.clone(), page(&name)));
        }
    }
    all
}

/// Returns the text between backticks and in code blocks, a line of a block or a span each.
fn code(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (i, block) in text.split("```").enumerate() {
        match i % 2 {
            1 => all.extend(block.lines().map(str::to_string)),
            _ => all.extend(block.split('`').skip(1).step_by(2).map(str::to_string)),
        }
    }
    all
}

/// Returns the long flags that a text names, without their dashes.
fn flags(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("--") {
        let before = text[..at].chars().next_back();
        let name: String = text[at + 2..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
        if name.starts_with(|c: char| c.is_ascii_lowercase()) && !before.is_some_and(|c| c == '-' || c.is_alphanumeric()) {
            found.insert(name);
        }
    }
    found
}

/// Returns each flag of a verb with its default.
fn flags_of(verb: &[String]) -> BTreeMap<String, Option<String>> {
    let help = stdout(mimco().args(verb).arg("-h"));
    let mut found = BTreeMap::new();
    for line in help.lines().filter(|line| line.trim_start().starts_with('-')) {
        let name = flags(line.trim_start().split("  ").next().unwrap()).pop_first().unwrap();
        let default = line.split_once("[default: ").map(|(_, rest)| rest.split(']').next().unwrap().to_string());
        found.insert(name, default);
    }
    found
}

/// Returns the sections of `commands.md` by their headings.
fn sections() -> BTreeMap<String, String> {
    let text = page("docs/src/commands.md");
    let sections = text.split("\n## ").skip(1).map(|section| section.split_once('\n').unwrap());
    sections.map(|(heading, body)| (heading.to_string(), body.to_string())).collect()
}

#[test]
fn every_verb_has_a_section_and_every_section_is_a_verb() {
    let verbs: BTreeSet<String> = verbs().into_iter().map(|verb| verb[0].clone()).collect();
    assert_eq!(sections().into_keys().collect::<BTreeSet<_>>(), verbs);
}

#[test]
fn the_manual_names_every_flag_with_its_default_and_no_other() {
    let general = ["help", "threads", "version"];
    for (verb, section) in sections() {
        let all = verbs().into_iter().filter(|v| v[0] == verb);
        let known: BTreeMap<String, Option<String>> = all.flat_map(|v| flags_of(&v)).collect();
        for (flag, default) in &known {
            let named = section.find(&format!("`--{flag}"));
            assert!(named.is_some() || general.contains(&flag.as_str()), "commands.md does not name --{flag} of {verb}");
            if let Some((value, at)) = default.clone().filter(|d| d.parse::<f64>().is_ok()).zip(named) {
                let line: String = section[at..].chars().take(120).collect();
                assert!(line.contains(&format!("({value}")), "commands.md does not have the default {value} of --{flag} of {verb}");
            }
        }
        for flag in flags(&section) {
            assert!(known.contains_key(&flag) || general.contains(&flag.as_str()), "commands.md: {verb} has no --{flag}");
        }
    }
}

#[test]
fn every_command_in_the_manual_is_one_of_the_program() {
    let verbs = verbs();
    for (name, text) in pages() {
        for line in code(&text) {
            let command = line.split(" #").next().unwrap();
            let words: Vec<&str> = command.trim_start_matches("$ ").split_whitespace().collect();
            let ["mimco", verb, rest @ ..] = &words[..] else { continue };
            if verb.starts_with(|c: char| !c.is_ascii_lowercase()) {
                continue; // `mimco VERB --help`, `mimco --version`
            }
            let of_verb = verbs.iter().filter(|v| v[0] == *verb && (v.len() == 1 || rest.first() == Some(&v[1].as_str())));
            let known: BTreeSet<String> = of_verb.flat_map(|v| flags_of(v).into_keys()).collect();
            assert!(!known.is_empty() || verbs.iter().any(|v| v[0] == *verb), "{name}: there is no verb {verb}: {line}");
            for flag in flags(command) {
                assert!(known.contains(&flag) || known.is_empty(), "{name}: {verb} has no --{flag}: {line}");
            }
        }
    }
}

/// Returns the default settings of a method: dotted key and value.
fn defaults(method: &str) -> BTreeMap<String, Value> {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("defaults.toml");
    std::fs::write(&recipe, format!("method = \"{method}\"\n")).unwrap();
    let text = stdout(mimco().args(["pretrain", "--print-config", "--json", "--recipe"]).arg(&recipe));
    let mut flat = BTreeMap::new();
    for (table, value) in serde_json::from_str::<Value>(&text).unwrap().as_object().unwrap() {
        match value {
            _ if ["teacher", "method"].contains(&table.as_str()) => {}
            Value::Object(inner) => flat.extend(inner.iter().map(|(key, value)| (format!("{table}.{key}"), value.clone()))),
            _ => drop(flat.insert(table.clone(), value.clone())),
        }
    }
    flat
}

/// Returns whether a cell of the manual's table is this value. Numbers are compared as 32-bit floats.
fn is_value(cell: &str, value: &Value) -> bool {
    let cell = cell.trim_matches(['*', '`']);
    match value {
        Value::String(text) => cell == text,
        Value::Number(number) => cell.parse::<f32>().is_ok_and(|cell| cell == number.as_f64().unwrap() as f32),
        Value::Array(values) => {
            let cells: Vec<&str> = cell.trim_matches(['[', ']']).split(", ").collect();
            cells.len() == values.len() && cells.iter().zip(values).all(|(cell, value)| is_value(cell, value))
        }
        Value::Bool(flag) => cell == if *flag { "true" } else { "false" },
        _ => false,
    }
}

#[test]
fn the_manual_has_every_setting_with_its_default() {
    let (moco, mimco) = (defaults("moco_v3"), defaults("mimco"));
    let mut documented = BTreeSet::new();
    for row in page("docs/src/settings.md").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let key = cells[0].trim_matches('`');
        documented.insert(key.to_string());
        if key == "precision" {
            continue; // `auto` is printed as what this machine takes
        }
        let both = cells.len() == 4;
        let for_mimco = if both && !cells[2].is_empty() { cells[2] } else { cells[1] };
        for (defaults, cell) in [(&moco, cells[1]), (&mimco, for_mimco)] {
            match defaults.get(key) {
                Some(value) => assert!(is_value(cell, value), "settings.md has {key}={cell}, the program {value}"),
                None => assert!(!both, "settings.md has {key} for a method that lacks it"),
            }
        }
    }
    let known: BTreeSet<String> = moco.into_keys().chain(mimco.into_keys()).collect();
    assert_eq!(documented, known);
}

#[test]
fn every_setting_that_a_page_names_exists() {
    let mut known: BTreeSet<String> = defaults("moco_v3").into_keys().chain(defaults("mimco").into_keys()).collect();
    known.insert("model.encoder".into()); // of a file that is read
    for (name, text) in pages() {
        for span in code(&text) {
            let keys =
                span.split([' ', '"', '`', '(']).filter_map(|word| word.split_once('=')).map(|(key, _)| key.trim_start_matches("teacher."));
            for key in
                keys.filter(|key| key.split_once('.').is_some_and(|(table, _)| known.iter().any(|k| k.starts_with(&format!("{table}.")))))
            {
                assert!(known.contains(key), "{name}: there is no setting {key}: {span}");
            }
        }
    }
}

#[test]
fn the_example_of_inspect_is_what_the_program_prints() {
    let text = page("docs/src/checkpoints.md");
    let example = text.split("```").find(|block| block.trim_start().starts_with("$ mimco inspect")).unwrap();
    let printed = stdout(mimco().arg("inspect").arg(fixture("moco_v3.pth.tar")).arg("model.heads=3"));
    for line in example.lines().skip(2).filter(|line| !line.trim().is_empty() && line.trim() != "...") {
        let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(printed.lines().any(|other| squeeze(other) == squeeze(line)), "checkpoints.md has {line:?}, the program prints {printed}");
    }
}
