//! Resolves a recipe and `key=value` settings to the stages of a run. Settings override the recipe, which
//! overrides the defaults. An unknown key is an error that names the nearest one.

use super::config::Config;
use super::flat::{flatten, one_line};
use super::method::MethodSettings;
use crate::Error;
use crate::models::overrides::BackboneOverrides;
use serde::Serialize;
use toml::{Table, Value};

/// Built-in recipes: name and text.
pub const RECIPES: [(&str, &str); 7] = [
    ("demo", include_str!("../../../../recipes/demo.toml")),
    ("moco_v3_vit_small", include_str!("../../../../recipes/moco_v3_vit_small.toml")),
    ("mimco_vit_small", include_str!("../../../../recipes/mimco_vit_small.toml")),
    ("moco_v3_cifar", include_str!("../../../../recipes/moco_v3_cifar.toml")),
    ("mimco_cifar", include_str!("../../../../recipes/mimco_cifar.toml")),
    ("moco_v3_photos", include_str!("../../../../recipes/moco_v3_photos.toml")),
    ("mimco_photos", include_str!("../../../../recipes/mimco_photos.toml")),
];
/// Recipe of a run that names none.
const DEFAULT_RECIPE: &str = "mimco_photos";
/// Method of a recipe that names none.
const DEFAULT_METHOD: &str = "mimco";
/// Method of a teacher's stage that names none.
const DEFAULT_TEACHER: &str = "moco_v3";
/// Prefix of the settings of the teacher's stage.
const TEACHER: &str = "teacher.";

/// Source of the teacher.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Teacher {
    /// A given file: the run trains the student alone.
    Given,
    /// The run's first stage.
    Trained,
}

/// The stages of a run.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Plan {
    /// The main stage.
    #[serde(flatten)]
    pub main: Config,
    /// The teacher's stage, which runs first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<Config>,
}

impl Plan {
    /// Resolves a recipe (a built-in name or a file; without one, the recipe for photos) and settings.
    ///
    /// A setting applies to every stage that has it. `teacher.KEY=VALUE` applies to the teacher's stage
    /// alone and takes precedence. For a given teacher, `teacher.model.heads`, `teacher.data.mean` and
    /// `teacher.data.std` override or complete what its file contains.
    ///
    /// # Errors
    /// A recipe that does not exist, an unknown key, or an invalid value.
    pub fn resolve(recipe: Option<&str>, settings: &[String], teacher: Teacher) -> Result<Plan, Error> {
        let name = recipe.unwrap_or(DEFAULT_RECIPE);
        let mut table = read_recipe(name)?;
        let teacher_table = match table.remove("teacher") {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(_) => return Err(Error::Setting(format!("recipe {name}: `teacher` is not a table"))),
        };
        let mut given_teacher: Option<BackboneOverrides> = match table.remove("given_teacher").map(Value::try_into) {
            None => None,
            Some(Ok(overrides)) => Some(overrides),
            Some(Err(e)) => return Err(Error::Setting(format!("recipe {name}: given_teacher: {}", one_line(e.message())))),
        };
        let (main, needs_teacher) = stage(table, DEFAULT_METHOD, name)?;
        if !needs_teacher && teacher == Teacher::Given {
            return Err(Error::Setting(format!("recipe {name} does not use a teacher; leave --teacher out, or name a mimco recipe")));
        }
        let mut stages = vec![("", main)];
        if needs_teacher && teacher == Teacher::Trained {
            stages.push((TEACHER, teacher_stage(teacher_table, &stages[0].1, name)?));
        }
        let mut settings = settings.to_vec();
        if needs_teacher && teacher == Teacher::Given {
            let of_teacher: Vec<String> = settings.extract_if(.., |s| s.starts_with(TEACHER)).collect();
            let inner: Vec<String> = of_teacher.iter().map(|s| s.trim_start_matches(TEACHER).to_string()).collect();
            let overrides = BackboneOverrides::from_settings(&inner).map_err(|e| Error::Setting(format!("{TEACHER}{e}")))?;
            let overrides = overrides.or(given_teacher.unwrap_or_default());
            given_teacher = (overrides != BackboneOverrides::default()).then_some(overrides);
        } else {
            given_teacher = None;
        }
        apply(&mut stages, &settings)?;
        let mut configs = stages.into_iter().map(|(prefix, table)| {
            let mut config: Config = table.try_into().map_err(|e: toml::de::Error| Error::Setting(one_line(&e.to_string())))?;
            config.check().map_err(|e| Error::Setting(format!("{prefix}{e}")))?;
            config.precision = config.precision.resolved(); // a resumed run keeps the precision that it started in
            Ok::<Config, Error>(config)
        });
        let main = configs.next().unwrap_or_else(|| Err(Error::Setting("a run needs a stage".into())))?;
        Ok(Plan { main: Config { given_teacher, ..main }, teacher: configs.next().transpose()? })
    }

    /// Returns the resolved settings of all stages, in the form of a recipe.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }
}

/// Reads a built-in recipe, or a file.
fn read_recipe(name: &str) -> Result<Table, Error> {
    let text = match RECIPES.iter().find(|(built_in, _)| *built_in == name) {
        Some((_, text)) => text.to_string(),
        None if name.ends_with(".toml") || name.contains(['/', '\\']) => std::fs::read_to_string(name)
            .map_err(|e| Error::Setting(format!("{name}: the recipe cannot be read: {e}; give a file or a built-in name")))?,
        None => {
            let names: Vec<&str> = RECIPES.iter().map(|(name, _)| *name).collect();
            let nearest = nearest(name, names.iter().copied()).map_or(String::new(), |n| format!("; did you mean {n}?"));
            return Err(Error::Setting(format!(
                "there is no recipe {name}{nearest} Built-in recipes: {}; or give a .toml file",
                names.join(", ")
            )));
        }
    };
    toml::from_str(&text).map_err(|e| Error::Setting(format!("recipe {name}: {}", one_line(&e.to_string()))))
}

/// Resolves a recipe's table over its method's defaults. Returns whether the method needs a teacher too.
fn stage(over: Table, fallback: &str, recipe: &str) -> Result<(Table, bool), Error> {
    let name = match over.get("method") {
        None => fallback,
        Some(Value::String(name)) => name,
        Some(_) => return Err(Error::Setting(format!("recipe {recipe}: method is not a name"))),
    };
    let method = MethodSettings::named(name).map_err(|e| Error::Setting(format!("recipe {recipe}: {e}")))?;
    let needs_teacher = method.spec().needs_teacher();
    let mut table = Config::defaults(method).to_table();
    for (key, value) in flatten(&over) {
        set(&mut table, &key, value, &format!("recipe {recipe}: "))?;
    }
    Ok((table, needs_teacher))
}

/// Resolves the teacher's stage: the recipe that it names (`recipe = "..."`), or the defaults with the
/// student's model and data, under its own table.
fn teacher_stage(mut over: Table, main: &Table, recipe: &str) -> Result<Table, Error> {
    let base = match over.remove("recipe") {
        Some(Value::String(name)) => read_recipe(&name)?,
        Some(_) => return Err(Error::Setting(format!("recipe {recipe}: teacher.recipe is the name of a recipe"))),
        None => {
            let shared = ["seed", "precision", "model", "data"];
            main.iter().filter(|(key, _)| shared.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
        }
    };
    let (mut table, needs_teacher) = stage(base, DEFAULT_TEACHER, recipe)?;
    if needs_teacher {
        return Err(Error::Setting(format!("recipe {recipe}: the teacher's method needs a teacher itself; give moco_v3")));
    }
    for (key, value) in flatten(&over) {
        set(&mut table, &key, value, &format!("recipe {recipe}: teacher."))?;
    }
    Ok(table)
}

/// Applies settings `key=value` to the stages.
fn apply(stages: &mut [(&str, Table)], settings: &[String]) -> Result<(), Error> {
    let (for_teacher, for_all): (Vec<&String>, Vec<&String>) = settings.iter().partition(|s| s.starts_with(TEACHER));
    for setting in for_all {
        let (key, value) = split(setting)?;
        if key == "method" {
            return Err(Error::Setting("method comes with the recipe; name another with --recipe".into()));
        }
        let mut known = false;
        for (prefix, table) in stages.iter_mut() {
            if flatten(table).contains_key(key) {
                set(table, key, value.clone(), prefix)?;
                known = true;
            }
        }
        if !known {
            let keys = stages.iter().flat_map(|(_, table)| flatten(table).into_keys()).collect::<Vec<_>>();
            return Err(unknown(key, keys.iter().map(String::as_str), ""));
        }
    }
    for setting in for_teacher {
        let (key, value) = split(setting)?;
        let (_, table) = stages
            .iter_mut()
            .find(|(prefix, _)| *prefix == TEACHER)
            .ok_or_else(|| Error::Setting(format!("{key}: this run trains no teacher; leave the setting out")))?;
        set(table, key.trim_start_matches(TEACHER), value, TEACHER)?;
    }
    Ok(())
}

fn split(setting: &str) -> Result<(&str, Value), Error> {
    let Some((key, text)) = setting.split_once('=') else {
        return Err(Error::Setting(format!("{setting}: settings are key=value, such as train.epochs=20")));
    };
    let (key, text) = (key.trim(), text.trim());
    // A TOML value, or a bare word.
    let value = toml::from_str::<Table>(&format!("v = {text}")).ok().and_then(|mut t| t.remove("v"));
    Ok((key, value.unwrap_or(Value::String(text.into()))))
}

/// Sets a known key to a value of its type.
fn set(table: &mut Table, key: &str, value: Value, prefix: &str) -> Result<(), Error> {
    if !flatten(table).contains_key(key) {
        let keys = flatten(table).into_keys().collect::<Vec<_>>();
        return Err(unknown(key, keys.iter().map(String::as_str), prefix));
    }
    let mut at = &mut *table;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            at.insert(part.into(), value);
            break;
        }
        match at.get_mut(part) {
            Some(Value::Table(inner)) => at = inner,
            _ => return Err(unknown(key, std::iter::empty(), prefix)),
        }
    }
    table.clone().try_into::<Config>().map(|_| ()).map_err(|e| Error::Setting(format!("{prefix}{key}: {}", one_line(e.message()))))
}

fn unknown<'a>(key: &str, known: impl Iterator<Item = &'a str>, prefix: &str) -> Error {
    let nearest =
        nearest(key, known).map_or(String::new(), |n| format!("; did you mean {prefix_key}{n}?", prefix_key = teacher_of(prefix)));
    let (place, inner) = prefix.rsplit_once(": ").map_or(("", prefix), |(place, inner)| (&prefix[..place.len() + 2], inner));
    Error::Setting(format!("{place}unknown setting {inner}{key}{nearest} (--print-config shows all)"))
}

fn teacher_of(prefix: &str) -> &str {
    if prefix.ends_with(TEACHER) { TEACHER } else { "" }
}

/// Returns the known name at the smallest edit distance, compared as a whole or by its last part.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |known: &str| {
        let last = known.rsplit('.').next().unwrap_or(known);
        strsim::damerau_levenshtein(name, known).min(strsim::damerau_levenshtein(name, last) + 1)
    };
    known.min_by_key(|known| distance(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::settings::mimco::PatchLoss;
    use crate::models::arch::Arch;
    use crate::values::Auto;

    fn resolve(recipe: Option<&str>, settings: &[&str]) -> Result<Plan, String> {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        Plan::resolve(recipe, &settings, Teacher::Trained).map_err(|e| e.to_string())
    }

    #[test]
    fn every_recipe_resolves_and_begins_with_its_command() {
        for (name, text) in RECIPES {
            let plan = resolve(Some(name), &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(plan.teacher.is_some(), plan.main.method.spec().needs_teacher(), "{name}");
            let command = text.lines().next().unwrap_or_default();
            assert!(
                command.starts_with("# ")
                    && command.contains("mimco ")
                    && (command.contains(name) || name.contains("photos") || name == "demo"),
                "{name}: {command}"
            );
            if let Some(teacher) = &plan.teacher {
                assert_eq!(teacher.vit().grid(), plan.main.vit().grid(), "{name}");
            }
        }
    }

    #[test]
    fn settings_go_to_every_stage_that_has_them() {
        let plan = resolve(
            None,
            &[
                "train.epochs=3",
                "model.arch=small",
                "teacher.train.epochs=7",
                "mimco.patch_loss=l1",
                "moco_v3.out=8",
                "data.mean=[0, 0.5, 1]",
            ],
        )
        .unwrap();
        let teacher = plan.teacher.unwrap();
        assert_eq!((plan.main.train.epochs, teacher.train.epochs), (3, 7));
        assert_eq!((plan.main.model.arch, teacher.model.arch), (Arch::Small, Arch::Small));
        let MethodSettings::Mimco(student) = plan.main.method else { panic!("the student's method") };
        assert_eq!(student.mimco.patch_loss, PatchLoss::L1);
        let MethodSettings::MocoV3(teacher_settings) = teacher.method else { panic!("the teacher's method") };
        assert_eq!(teacher_settings.moco_v3.out, 8);
        assert_eq!(teacher.data.mean, [0.0, 0.5, 1.0]);
    }

    #[test]
    fn a_printed_plan_is_a_recipe_for_the_same() {
        let plan = resolve(None, &["seed=5", "model.heads=6", "optim.lr=3e-3"]).unwrap();
        assert_eq!(plan.main.model.heads, Auto::Set(6));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        std::fs::write(&path, plan.to_toml()).unwrap();
        assert_eq!(resolve(path.to_str(), &[]).unwrap(), plan);
    }

    #[test]
    fn mistakes_are_named_with_what_was_meant() {
        let error = |settings: &[&str]| {
            let message = resolve(None, settings).unwrap_err();
            assert!(!message.contains('\n'), "{message}");
            message
        };
        assert!(error(&["train.epoch=3"]).contains("did you mean train.epochs?"));
        assert!(error(&["epochs=3"]).contains("did you mean train.epochs?"));
        assert!(error(&["teacher.moco_v3.temprature=3"]).contains("did you mean teacher.moco_v3.temperature?"));
        assert!(error(&["train=3"]).contains("unknown setting train"));
        assert!(error(&["train.epochs=many"]).contains("train.epochs: "));
        assert!(error(&["train.epochs"]).contains("key=value"));
        assert!(error(&["model.heads=none"]).contains("model.heads: a whole number or \"auto\""));
        assert!(error(&["mimco.patch_loss=l2"]).contains("l1"));
        assert!(error(&["precision=f64"]).contains("precision: "));
        assert!(error(&["teacher.optim.lr=-1"]).contains("teacher.optim.lr=-1"));
        assert!(resolve(Some("mimco_photo"), &[]).unwrap_err().contains("did you mean mimco_photos?"));
        assert!(resolve(Some("gone.toml"), &[]).unwrap_err().contains("gone.toml"));
        let given = Plan::resolve(Some("moco_v3_cifar"), &[], Teacher::Given).unwrap_err().to_string();
        assert!(given.contains("--teacher"), "{given}");
        let stage2 = Plan::resolve(Some("mimco_cifar"), &["teacher.train.epochs=1".into()], Teacher::Given).unwrap_err().to_string();
        assert!(stage2.contains("teacher.train.epochs=1: unknown setting"), "{stage2}");
        assert!(error(&["teacher.model.headz=3"]).starts_with("unknown setting teacher.model.headz; did you mean teacher.model.heads?"));
    }

    #[test]
    fn a_given_teachers_heads_are_part_of_the_settings() {
        let plan = Plan::resolve(None, &["teacher.model.heads=12".into()], Teacher::Given).unwrap();
        assert_eq!((plan.main.teacher_overrides().heads, plan.main.model.heads), (Some(12), Auto::Auto));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        std::fs::write(&path, plan.to_toml()).unwrap();
        assert_eq!(Plan::resolve(path.to_str(), &[], Teacher::Given).unwrap(), plan);
        assert!(Plan::resolve(None, &[], Teacher::Given).unwrap().main.differences(&plan.main)[0].contains("given_teacher.heads"));
    }
}
