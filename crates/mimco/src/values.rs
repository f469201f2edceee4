//! Values of settings that are a number or one word.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value, or `auto`: the program chooses one that fits the other settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Auto<T> {
    /// The program chooses.
    Auto,
    /// The user chose this value.
    Set(T),
}

impl<T: Copy> Auto<T> {
    /// Returns the value that the user chose, if any.
    pub fn value(&self) -> Option<T> {
        match self {
            Auto::Auto => None,
            Auto::Set(value) => Some(*value),
        }
    }
}

/// A transformer block, counted from 1, or `last`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockChoice {
    /// The last block.
    Last,
    /// The block of this number.
    Block(usize),
}

impl BlockChoice {
    /// Returns the number of the block, or `None` for the last one.
    pub fn value(&self) -> Option<usize> {
        match self {
            BlockChoice::Last => None,
            BlockChoice::Block(block) => Some(*block),
        }
    }
}

/// The serialized form: a number, or a word in its place.
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
    let mismatch = || serde::de::Error::custom(format!("a whole number or {word:?} is needed"));
    match NumberOrWord::deserialize(from).map_err(|_| mismatch())? {
        NumberOrWord::Number(number) => Ok(Some(number as usize)),
        NumberOrWord::Word(given) if given == word => Ok(None),
        NumberOrWord::Word(_) => Err(mismatch()),
    }
}

impl Serialize for Auto<usize> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        write(self.value(), "auto", to)
    }
}

impl<'de> Deserialize<'de> for Auto<usize> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(read("auto", from)?.map_or(Auto::Auto, Auto::Set))
    }
}

impl Serialize for BlockChoice {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        write(self.value(), "last", to)
    }
}

impl<'de> Deserialize<'de> for BlockChoice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(read("last", from)?.map_or(BlockChoice::Last, BlockChoice::Block))
    }
}
