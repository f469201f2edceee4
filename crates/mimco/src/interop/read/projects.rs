//! Known projects that publish checkpoints: their head counts, channel statistics and licenses,
//! which do not follow from shapes.

use crate::models::vit::{IMAGENET_MEAN, IMAGENET_STD};

/// Project that wrote a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Project {
    /// This program, whose files describe themselves in their metadata.
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
        /// Whether the file is from a MoCo v3 pre-training.
        moco: bool,
        /// Whether the file contains a supervised classifier.
        supervised: bool,
    },
    /// Hugging Face's `ViTModel`, and models that contain it.
    HuggingFaceVit,
    /// Hugging Face's `Dinov2Model`, with registers or without.
    HuggingFaceDinoV2,
    /// timm, or another project with its names.
    Timm,
    /// A classifier from a script like PyTorch's ImageNet example, such as MoCo v3's linear probe.
    Classifier,
    /// Unknown project with an encoder of a known layout.
    Unknown,
}

/// Widths and heads of the ViTs that a project publishes.
type Published = &'static [(usize, usize)];
const DINO: Published = &[(192, 3), (384, 6), (768, 12)];
const IBOT: Published = &[(384, 6), (768, 12), (1024, 16)];
const MOBY: Published = &[(384, 6)];
const MAE: Published = &[(768, 12), (1024, 16), (1280, 16)]; // ViT-H's heads have width 80
const DINO_V2: Published = &[(384, 6), (768, 12), (1024, 16), (1536, 24)];
/// Without width 384, which is DeiT's with 6 heads or MoCo v3's with 12.
const MMPRETRAIN: Published = &[(192, 3), (768, 12), (1024, 16), (1280, 16)];
/// ViTs of timm whose heads do not have width 64: so400m, huge, giant, gigantic.
const TIMM: Published = &[(1152, 16), (1280, 16), (1408, 16), (1664, 16)];

impl Project {
    /// Returns the name of the project for people. Exports contain it, so it must not change.
    pub fn name(self) -> &'static str {
        match self {
            Project::Native => "mimco",
            Project::MocoV3 => "MoCo v3",
            Project::Moby => "MoBY",
            Project::Dino => "DINO",
            Project::Ibot => "iBOT",
            Project::DinoV2 => "DINOv2",
            Project::Mae => "MAE",
            Project::MmPretrain { moco: true, .. } => "mmpretrain's MoCo v3",
            Project::MmPretrain { .. } => "mmpretrain",
            Project::HuggingFaceVit => "Hugging Face ViT",
            Project::HuggingFaceDinoV2 => "Hugging Face Dinov2",
            Project::Timm => "timm",
            Project::Classifier => "a checkpoint of a classifier's training (a linear probe or a fine-tuning, not the pre-training)",
            Project::Unknown => "an encoder of unknown origin",
        }
    }

    /// Returns the attention heads of a model of this width and depth, with the evidence, if the
    /// project determines them.
    pub fn heads(self, width: usize, depth: usize) -> Option<(usize, String)> {
        let published = |table: Published| {
            let heads = table.iter().find(|(w, _)| *w == width).map(|&(_, heads)| heads);
            heads.map(|heads| (heads, format!("{}'s ViTs of width {width} have {heads}", self.name())))
        };
        match self {
            Project::MocoV3 | Project::MmPretrain { moco: true, .. } => {
                [384, 768].contains(&width).then(|| (12, "all of MoCo v3's ViTs have 12".into()))
            }
            Project::MmPretrain { .. } if (width, depth) == (768, 8) => Some((8, "mmpretrain's small ViT has 8".into())),
            Project::MmPretrain { .. } => published(MMPRETRAIN),
            Project::Dino => published(DINO),
            Project::Ibot => published(IBOT),
            Project::Moby => published(MOBY),
            Project::Mae => published(MAE),
            Project::DinoV2 | Project::HuggingFaceDinoV2 => published(DINO_V2),
            Project::Timm => published(TIMM).or_else(|| (width >= 64).then(|| (width / 64, "timm's rule, width / 64".into()))),
            Project::Native | Project::HuggingFaceVit | Project::Classifier | Project::Unknown => None,
        }
    }

    /// Returns the mean and standard deviation of the channels by which the project normalizes
    /// images, if it determines them.
    pub fn statistics(self) -> Option<([f32; 3], [f32; 3])> {
        match self {
            Project::Native | Project::HuggingFaceVit | Project::MmPretrain { supervised: true, .. } | Project::Unknown => None,
            _ => Some((IMAGENET_MEAN, IMAGENET_STD)),
        }
    }

    /// Returns the license of the project's code. Weights may have another.
    pub fn license(self) -> Option<&'static str> {
        match self {
            Project::MocoV3 | Project::Mae => Some("CC-BY-NC-4.0"),
            Project::Moby => Some("MIT"),
            Project::Dino | Project::Ibot | Project::DinoV2 | Project::HuggingFaceDinoV2 | Project::MmPretrain { .. } => Some("Apache-2.0"),
            // timm and Hugging Face publish weights of many origins.
            Project::Native | Project::Timm | Project::HuggingFaceVit | Project::Classifier | Project::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_those_that_each_project_publishes() {
        let heads = |project: Project, width, depth| project.heads(width, depth).map(|(heads, _)| heads);
        let plain = Project::MmPretrain { moco: false, supervised: false };
        assert_eq!(
            (heads(Project::MocoV3, 384, 12), heads(Project::MocoV3, 768, 12), heads(Project::MocoV3, 192, 12)),
            (Some(12), Some(12), None)
        );
        assert_eq!(
            (heads(Project::Dino, 384, 12), heads(Project::DinoV2, 1024, 24), heads(Project::Mae, 1280, 32)),
            (Some(6), Some(16), Some(16))
        );
        // Width 384 is DeiT's or MoCo v3's; width 768 with depth 8 is mmpretrain's own small ViT.
        assert_eq!((heads(plain, 384, 12), heads(plain, 768, 8), heads(plain, 768, 12)), (None, Some(8), Some(12)));
        assert_eq!(
            (heads(Project::Timm, 384, 12), heads(Project::Timm, 48, 2), heads(Project::HuggingFaceVit, 768, 12)),
            (Some(6), None, None)
        );
    }
}
