//! What is known of those who write checkpoints: head counts, statistics, licences. Shapes tell none of these.

use crate::models::vit::{IMAGENET_MEAN, IMAGENET_STD};
use serde::{Deserialize, Serialize};

/// Who writes files of a layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// This program's exports and checkpoints, whose metadata say all.
    Native,
    /// facebookresearch/moco-v3.
    MocoV3,
    /// SwinTransformer/Transformer-SSL.
    Moby,
    /// facebookresearch/dino.
    Dino,
    /// bytedance/ibot.
    Ibot,
    /// facebookresearch/dinov2.
    DinoV2,
    /// facebookresearch/mae.
    Mae,
    /// open-mmlab/mmpretrain, mmselfsup and mmcls.
    MmPretrain {
        /// Whether the file is one of MoCo v3's pre-training.
        moco: bool,
        /// Whether it has a supervised classifier.
        supervised: bool,
    },
    /// Hugging Face's `ViTModel` and those around it.
    HuggingFaceVit,
    /// Hugging Face's `Dinov2Model`, with registers or without.
    HuggingFaceDinoV2,
    /// timm, or anyone who took its names.
    Timm,
    /// A classifier trained by a script in the manner of PyTorch's ImageNet example, as MoCo v3's linear probe is.
    Classifier,
    /// An encoder within a model that is not known.
    Unknown,
}

/// Width and heads of the ViTs that a project publishes.
type Published = &'static [(usize, usize)];
const DINO: Published = &[(192, 3), (384, 6), (768, 12)];
const IBOT: Published = &[(384, 6), (768, 12), (1024, 16)];
const MOBY: Published = &[(384, 6)];
const MAE: Published = &[(768, 12), (1024, 16), (1280, 16)]; // the huge one's heads are 80 wide
const DINO_V2: Published = &[(384, 6), (768, 12), (1024, 16), (1536, 24)];
/// Its ViT of 384 may be DeiT's, with 6 heads, or MoCo v3's, with 12.
const MMPRETRAIN: Published = &[(192, 3), (768, 12), (1024, 16), (1280, 16)];
/// Those of timm's ViTs whose heads are not 64 wide: so400m, huge, giant, gigantic.
const TIMM: Published = &[(1152, 16), (1280, 16), (1408, 16), (1664, 16)];

impl Source {
    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Source::Native => "mimco",
            Source::MocoV3 => "MoCo v3",
            Source::Moby => "MoBY",
            Source::Dino => "DINO",
            Source::Ibot => "iBOT",
            Source::DinoV2 => "DINOv2",
            Source::Mae => "MAE",
            Source::MmPretrain { moco: true, .. } => "mmpretrain's MoCo v3",
            Source::MmPretrain { .. } => "mmpretrain",
            Source::HuggingFaceVit => "Hugging Face ViT",
            Source::HuggingFaceDinoV2 => "Hugging Face Dinov2",
            Source::Timm => "timm",
            Source::Classifier => "a checkpoint of a classifier's training (a linear probe or a fine-tuning, not the pre-training)",
            Source::Unknown => "an encoder of unknown origin",
        }
    }

    /// Attention heads of a model of this width and depth, where the source settles it, and why.
    pub fn heads(self, width: usize, depth: usize) -> Option<(usize, String)> {
        let published = |table: Published| {
            let heads = table.iter().find(|(w, _)| *w == width).map(|&(_, heads)| heads);
            heads.map(|heads| (heads, format!("{}'s ViTs {width} wide have {heads}", self.name())))
        };
        match self {
            Source::MocoV3 | Source::MmPretrain { moco: true, .. } => {
                [384, 768].contains(&width).then(|| (12, "all of MoCo v3's ViTs have 12".into()))
            }
            Source::MmPretrain { .. } if (width, depth) == (768, 8) => Some((8, "mmpretrain's small ViT has 8".into())),
            Source::MmPretrain { .. } => published(MMPRETRAIN),
            Source::Dino => published(DINO),
            Source::Ibot => published(IBOT),
            Source::Moby => published(MOBY),
            Source::Mae => published(MAE),
            Source::DinoV2 | Source::HuggingFaceDinoV2 => published(DINO_V2),
            Source::Timm => published(TIMM).or_else(|| (width >= 64).then(|| (width / 64, "timm's rule, width / 64".into()))),
            Source::Native | Source::HuggingFaceVit | Source::Classifier | Source::Unknown => None,
        }
    }

    /// Mean and deviation of the channels that its images are normalised with, where the source settles it.
    pub fn statistics(self) -> Option<([f32; 3], [f32; 3])> {
        match self {
            Source::Native | Source::HuggingFaceVit | Source::MmPretrain { supervised: true, .. } | Source::Unknown => None,
            _ => Some((IMAGENET_MEAN, IMAGENET_STD)),
        }
    }

    /// What its code is licensed under; weights may be under another.
    pub fn licence(self) -> Option<&'static str> {
        match self {
            Source::MocoV3 | Source::Mae => Some("CC-BY-NC-4.0"),
            Source::Moby => Some("MIT"),
            Source::Dino | Source::Ibot | Source::DinoV2 | Source::HuggingFaceDinoV2 | Source::MmPretrain { .. } => Some("Apache-2.0"),
            // timm's and Hugging Face's files carry weights of many origins.
            Source::Native | Source::Timm | Source::HuggingFaceVit | Source::Classifier | Source::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_those_that_each_project_publishes() {
        let heads = |source: Source, width, depth| source.heads(width, depth).map(|(heads, _)| heads);
        let plain = Source::MmPretrain { moco: false, supervised: false };
        assert_eq!(
            (heads(Source::MocoV3, 384, 12), heads(Source::MocoV3, 768, 12), heads(Source::MocoV3, 192, 12)),
            (Some(12), Some(12), None)
        );
        assert_eq!(
            (heads(Source::Dino, 384, 12), heads(Source::DinoV2, 1024, 24), heads(Source::Mae, 1280, 32)),
            (Some(6), Some(16), Some(16))
        );
        // Of its ViTs 384 wide one is DeiT's and one MoCo v3's; 768 wide and 8 deep is its own small one.
        assert_eq!((heads(plain, 384, 12), heads(plain, 768, 8), heads(plain, 768, 12)), (None, Some(8), Some(12)));
        assert_eq!(
            (heads(Source::Timm, 384, 12), heads(Source::Timm, 48, 2), heads(Source::HuggingFaceVit, 768, 12)),
            (Some(6), None, None)
        );
    }
}
