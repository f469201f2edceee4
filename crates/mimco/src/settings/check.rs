//! Ranges of the settings.

use super::config::Config;
use crate::Error;
use crate::models::vit::{LARGEST_IMAGE, MAX_PATCHES};

impl Config {
    /// Checks the settings before anything is read.
    ///
    /// # Errors
    /// The first setting out of its range.
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
            (vit.image <= LARGEST_IMAGE, format!("model.image_size={}: must be at most {LARGEST_IMAGE}", vit.image)),
            (
                patches <= MAX_PATCHES,
                format!("model.patch_size={} makes {} patches per image, more than {MAX_PATCHES}; give larger patches", vit.patch, patches),
            ),
            (
                vit.heads > 0 && vit.width.is_multiple_of(vit.heads),
                format!("model.heads={0} does not divide {1}'s width of {2}", vit.heads, self.model.arch, vit.width),
            ),
            (self.model.registers <= 1024, format!("model.registers={}: must be at most 1024", self.model.registers)),
            (self.model.layer_scale.is_finite(), format!("model.layer_scale={}: must be finite; 0 for none", self.model.layer_scale)),
            (
                self.model.drop_path >= 0.0 && self.model.drop_path < 1.0,
                format!("model.drop_path={}: must be 0 or more and below 1", self.model.drop_path),
            ),
            (
                self.data.std.iter().all(|s| *s > 0.0 && s.is_finite()) && self.data.mean.iter().all(|m| m.is_finite()),
                "data.mean and data.std must be finite, data.std above 0".into(),
            ),
            ((0.0..=1.0).contains(&self.data.max_broken), format!("data.max_broken={}: must be from 0 to 1", self.data.max_broken)),
            (self.data.workers.value() != Some(0), "data.workers=0: must be at least 1, or auto".into()),
            (self.data.window_mib > 0, "data.window_mib=0: must be at least 1".into()),
            (
                0.0 < low && low <= high && high <= 1.0,
                format!("augment.crop_scale=[{low}, {high}]: must be two increasing shares above 0 and at most 1"),
            ),
            (share(self.augment.flip), format!("augment.flip={}: must be a probability from 0 to 1", self.augment.flip)),
            (train.epochs > 0, "train.epochs=0: must be at least 1".into()),
            (
                train.batch_size > 1,
                format!("train.batch_size={}: must be at least 2, since an image's negatives are the others", train.batch_size),
            ),
            (train.accumulate > 0, "train.accumulate=0: must be at least 1".into()),
            (
                (0.0..1.0).contains(&train.warmup),
                format!("train.warmup={}: must be a share of the run, 0 or more and below 1", train.warmup),
            ),
            (train.checkpoint_steps > 0, "train.checkpoint_steps=0: must be at least 1".into()),
            (train.log_steps > 0, "train.log_steps=0: must be at least 1".into()),
            (train.eval_epochs > 0, "train.eval_epochs=0: must be at least 1".into()),
            (train.knn_k > 0 && train.knn_samples > 0, "train.knn_k and train.knn_samples: must be at least 1".into()),
            (train.knn_temperature > 0.0, format!("train.knn_temperature={}: must be above 0", train.knn_temperature)),
            (train.max_bad_steps > 0, "train.max_bad_steps=0: must be at least 1".into()),
            (optim.lr > 0.0 && optim.lr.is_finite(), format!("optim.lr={}: must be above 0", optim.lr)),
            (optim.lr_batch > 0, "optim.lr_batch=0: must be at least 1".into()),
            ((0.0..=optim.lr).contains(&optim.min_lr), format!("optim.min_lr={}: must be from 0 to optim.lr", optim.min_lr)),
            (
                optim.weight_decay >= 0.0 && optim.weight_decay.is_finite(),
                format!("optim.weight_decay={}: must be 0 or more", optim.weight_decay),
            ),
            (
                optim.betas.iter().all(|b| (0.0..1.0).contains(b)),
                format!("optim.betas={:?}: must each be 0 or more and below 1", optim.betas),
            ),
            (optim.eps > 0.0, format!("optim.eps={}: must be above 0", optim.eps)),
            (optim.clip >= 0.0, format!("optim.clip={}: must be 0 (off) or more", optim.clip)),
        ];
        if let Some((_, message)) = rules.into_iter().find(|(holds, _)| !holds) {
            return Err(Error::Setting(message));
        }
        self.method.spec().check(&vit)
    }
}
