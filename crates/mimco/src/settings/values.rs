//! Values of settings that are not plain numbers.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A value, or `auto`: what fits the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Auto<T> {
    /// What fits.
    Auto,
    /// This.
    Set(T),
}

impl<T: Copy> Auto<T> {
    /// The value, where one was set.
    pub fn set(&self) -> Option<T> {
        match self {
            Auto::Auto => None,
            Auto::Set(value) => Some(*value),
        }
    }
}

/// A block of the teacher, from 1, or `last`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layer {
    /// The last one.
    Last,
    /// This one.
    Block(usize),
}

impl Layer {
    /// The block, where one was set.
    pub fn set(&self) -> Option<usize> {
        match self {
            Layer::Last => None,
            Layer::Block(block) => Some(*block),
        }
    }
}

/// A number, or one word that stands for none.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NumberOrWord {
    Number(u64),
    Word(String),
}

fn write<S: Serializer>(number: Option<usize>, word: &str, to: S) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) => to.serialize_u64(number as u64),
        None => to.serialize_str(word),
    }
}

fn read<'de, D: Deserializer<'de>>(word: &str, from: D) -> Result<Option<usize>, D::Error> {
    let wrong = || serde::de::Error::custom(format!("a whole number or {word:?} is needed"));
    match NumberOrWord::deserialize(from).map_err(|_| wrong())? {
        NumberOrWord::Number(number) => Ok(Some(number as usize)),
        NumberOrWord::Word(given) if given == word => Ok(None),
        NumberOrWord::Word(_) => Err(wrong()),
    }
}

impl Serialize for Auto<usize> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        write(self.set(), "auto", to)
    }
}

impl<'de> Deserialize<'de> for Auto<usize> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(read("auto", from)?.map_or(Auto::Auto, Auto::Set))
    }
}

impl Serialize for Layer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        write(self.set(), "last", to)
    }
}

impl<'de> Deserialize<'de> for Layer {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(read("last", from)?.map_or(Layer::Last, Layer::Block))
    }
}

/// What trains.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodName {
    /// MoCo v3.
    MocoV3,
    /// MimCo.
    Mimco,
}

impl fmt::Display for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MethodName::MocoV3 => "moco_v3",
            MethodName::Mimco => "mimco",
        })
    }
}

/// What activations and matrix products are computed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// What the machine is fastest in: bf16 where it multiplies it, else f32. A plan has one of the two in its place.
    Auto,
    /// Single precision.
    F32,
    /// Products and activations in bf16; sums, the residual stream, statistics, losses and the weights themselves in single precision.
    Bf16,
}

impl Precision {
    /// As the engine has it.
    pub fn engine(self) -> mimco_engine::Precision {
        match self {
            Precision::Auto => mimco_engine::Precision::best(),
            Precision::F32 => mimco_engine::Precision::F32,
            Precision::Bf16 => mimco_engine::Precision::Bf16,
        }
    }

    /// The one that this machine takes for it.
    pub fn resolved(self) -> Precision {
        match self.engine() {
            mimco_engine::Precision::F32 => Precision::F32,
            mimco_engine::Precision::Bf16 => Precision::Bf16,
        }
    }
}

/// The optimizer's rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// AdamW.
    Adamw,
    /// SGD with momentum.
    Sgd,
}
