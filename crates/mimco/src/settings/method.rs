//! The method that a stage trains and its settings: one arm a method.

use crate::Error;
use crate::methods::mimco::Mimco;
use crate::methods::moco_v3::MocoV3;
use crate::methods::settings::mimco::MimcoSpec;
use crate::methods::settings::moco_v3::MocoV3Spec;
use crate::methods::{BuildContext, Method, MethodSpec};
use serde::{Deserialize, Serialize};

/// Settings of one method, tagged by the key `method`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum MethodSettings {
    /// MoCo v3, a contrastive teacher.
    MocoV3(MocoV3Spec),
    /// MimCo, a student of a frozen teacher.
    Mimco(MimcoSpec),
}

impl MethodSettings {
    /// Returns every method with its default settings.
    pub fn all() -> Vec<MethodSettings> {
        vec![MethodSettings::MocoV3(MocoV3Spec::default()), MethodSettings::Mimco(MimcoSpec::default())]
    }

    /// Returns what the method's settings provide before it trains.
    pub fn spec(&self) -> &dyn MethodSpec {
        match self {
            MethodSettings::MocoV3(spec) => spec,
            MethodSettings::Mimco(spec) => spec,
        }
    }

    /// Builds the method at its first step, with random weights keyed by the seed.
    ///
    /// # Errors
    /// A teacher that is missing or does not fit.
    pub fn build(&self, context: BuildContext) -> Result<Box<dyn Method>, Error> {
        Ok(match self {
            MethodSettings::MocoV3(spec) => Box::new(MocoV3::new(spec, context)),
            MethodSettings::Mimco(spec) => Box::new(Mimco::new(spec, context)?),
        })
    }

    /// Returns the default settings of the method of this name.
    ///
    /// # Errors
    /// An unknown name; the message lists the known ones.
    pub fn named(name: &str) -> Result<MethodSettings, Error> {
        let all = MethodSettings::all();
        let names: Vec<&str> = all.iter().map(|method| method.spec().name()).collect();
        match names.iter().position(|known| *known == name) {
            Some(index) => Ok(all[index].clone()),
            None => Err(Error::Setting(format!("there is no method {name}; give {}", names.join(" or ")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_methods_name_is_its_tag() {
        for method in MethodSettings::all() {
            let table = toml::Table::try_from(&method).unwrap();
            assert_eq!(table["method"].as_str(), Some(method.spec().name()));
            assert_eq!(MethodSettings::named(method.spec().name()).unwrap(), method);
        }
        assert!(MethodSettings::named("mae2").unwrap_err().to_string().contains("moco_v3 or mimco"));
    }
}
