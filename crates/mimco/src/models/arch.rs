//! The named sizes of vision transformers.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Named width and depth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// Width 128, depth 6, for images of 28 to 32 px.
    Nano,
    /// Width 192, depth 12.
    Tiny,
    /// Width 384, depth 12.
    Small,
    /// Width 768, depth 12.
    Base,
    /// Width 1024, depth 24.
    Large,
}

impl Arch {
    const ALL: [Arch; 5] = [Arch::Nano, Arch::Tiny, Arch::Small, Arch::Base, Arch::Large];

    /// Returns width, depth and default number of heads: timm's, and 4 for nano.
    pub fn sizes(self) -> (usize, usize, usize) {
        match self {
            Arch::Nano => (128, 6, 4),
            Arch::Tiny => (192, 12, 3),
            Arch::Small => (384, 12, 6),
            Arch::Base => (768, 12, 12),
            Arch::Large => (1024, 24, 16),
        }
    }

    /// Returns the architecture of this width and depth, if it has a name.
    pub fn named(width: usize, depth: usize) -> Option<Arch> {
        Arch::ALL.into_iter().find(|arch| (arch.sizes().0, arch.sizes().1) == (width, depth))
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arch::Nano => "nano",
            Arch::Tiny => "tiny",
            Arch::Small => "small",
            Arch::Base => "base",
            Arch::Large => "large",
        })
    }
}
