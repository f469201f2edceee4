//! What a setting may be.

use super::Config;
use crate::Error;
use crate::models::vit::{LARGEST_IMAGE, MAX_PATCHES};

impl Config {
    /// What can be told to be wrong before anything is read.
    ///
    /// # Errors
    /// The first setting that cannot be, and what it may be.
    pub fn check(&self) -> Result<(), Error> {
        let vit = self.vit();
        let [low, high] = [self.augment.crop_scale.0, self.augment.crop_scale.1];
        let share = |value: f32| (0.0..=1.0).contains(&value);
        let (train, optim) = (&self.train, &self.optim);
        let patches = if vit.patch > 0 { vit.patches() } else { 0 };
        let rules = [
            (
                self.model.patch_size > 0 && self.model.image_size >= self.model.patch_size && vit.image.is_multiple_of(vit.patch),
                format!("model.image_size={} is not a multiple of model.patch_size={}", vit.image, vit.patch),
            ),
            (vit.image <= LARGEST_IMAGE, format!("model.image_size={}: at most {LARGEST_IMAGE}", vit.image)),
            (
                patches <= MAX_PATCHES,
                format!("model.patch_size={} makes {} patches an image, at most {MAX_PATCHES}; give larger patches", vit.patch, patches),
            ),
            (
                vit.heads > 0 && vit.width.is_multiple_of(vit.heads),
                format!("model.heads={} does not divide the width of {}, which is {}", vit.heads, self.model.arch, vit.width),
            ),
            (self.model.registers <= 1024, format!("model.registers={}: at most 1024", self.model.registers)),
            (self.model.layer_scale.is_finite(), format!("model.layer_scale={}: a finite number, 0 for none", self.model.layer_scale)),
            (
                self.model.drop_path >= 0.0 && self.model.drop_path < 1.0,
                format!("model.drop_path={}: 0 or more, below 1", self.model.drop_path),
            ),
            (
                self.data.std.iter().all(|s| *s > 0.0 && s.is_finite()) && self.data.mean.iter().all(|m| m.is_finite()),
                "data.mean and data.std must be finite, data.std above 0".into(),
            ),
            ((0.0..=1.0).contains(&self.data.max_broken), format!("data.max_broken={}: a share from 0 to 1", self.data.max_broken)),
            (self.data.workers.set() != Some(0), "data.workers=0: at least 1, or auto".into()),
            (self.data.window_mib > 0, "data.window_mib=0: at least 1".into()),
            (
                0.0 < low && low <= high && high <= 1.0,
                format!("augment.crop_scale=[{low}, {high}]: two rising shares above 0 and at most 1"),
            ),
            (share(self.augment.flip), format!("augment.flip={}: a probability from 0 to 1", self.augment.flip)),
            (train.epochs > 0, "train.epochs=0: at least 1".into()),
            (train.batch_size > 1, format!("train.batch_size={}: at least 2, since an image's negatives are the others", train.batch_size)),
            (train.accumulate > 0, "train.accumulate=0: at least 1".into()),
            ((0.0..1.0).contains(&train.warmup), format!("train.warmup={}: a share of the run, 0 or more, below 1", train.warmup)),
            (train.checkpoint_steps > 0, "train.checkpoint_steps=0: at least 1".into()),
            (train.log_steps > 0, "train.log_steps=0: at least 1".into()),
            (train.eval_epochs > 0, "train.eval_epochs=0: at least 1".into()),
            (train.knn_k > 0 && train.knn_samples > 0, "train.knn_k and train.knn_samples: at least 1".into()),
            (train.knn_temperature > 0.0, format!("train.knn_temperature={}: above 0", train.knn_temperature)),
            (train.max_bad_steps > 0, "train.max_bad_steps=0: at least 1".into()),
            (optim.lr > 0.0 && optim.lr.is_finite(), format!("optim.lr={}: above 0", optim.lr)),
            (optim.lr_batch > 0, "optim.lr_batch=0: at least 1".into()),
            ((0.0..=optim.lr).contains(&optim.min_lr), format!("optim.min_lr={}: from 0 to optim.lr", optim.min_lr)),
            (optim.weight_decay >= 0.0 && optim.weight_decay.is_finite(), format!("optim.weight_decay={}: 0 or more", optim.weight_decay)),
            (optim.betas.iter().all(|b| (0.0..1.0).contains(b)), format!("optim.betas={:?}: each 0 or more, below 1", optim.betas)),
            (optim.eps > 0.0, format!("optim.eps={}: above 0", optim.eps)),
            (optim.clip >= 0.0, format!("optim.clip={}: 0 (off) or more", optim.clip)),
        ];
        if let Some((_, what)) = rules.into_iter().find(|(holds, _)| !holds) {
            return Err(Error::Setting(what));
        }
        if let Some(mask) = &self.mask {
            mask.check(&vit)?;
        }
        if let Some(own) = &self.moco_v3 {
            own.check()?;
        }
        if let Some(own) = &self.mimco {
            own.check()?;
        }
        Ok(())
    }
}
