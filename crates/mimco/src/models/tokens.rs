//! The tokens of a batch of images, and how features are picked from them.

use mimco_engine::{Tape, Var};
use std::sync::Arc;

/// Tokens that a forward pass computes after the attention of its last block.
#[derive(Clone, Default)]
pub enum TokenRows {
    /// All tokens.
    #[default]
    All,
    /// The class tokens.
    Class,
    /// The class tokens and the patches that are true here, [images · patches].
    ClassAnd(Arc<[bool]>),
}

/// Tokens of a batch after the final norm. Image i owns the rows `offsets[i]..offsets[i + 1]`: its
/// prefix, class token first, then its patches from the top left, row by row.
#[derive(Clone)]
pub struct Tokens {
    /// [tokens of the batch, width]
    pub x: Var,
    /// Tokens of an image before its patches.
    pub prefix: usize,
    /// Patches along a side of the image.
    pub grid: usize,
    /// First row of each image, and the number of rows: [images + 1].
    pub offsets: Arc<[usize]>,
    /// Patches that have a row, [images · patches]; all of them where this is `None`.
    pub(crate) computed: Option<Arc<[bool]>>,
}

impl Tokens {
    /// Describes the rows that a forward pass over `images` images computes: `x` of the result is
    /// still to be set. Returns the rows among all tokens too, where they are not all.
    pub(super) fn layout(images: usize, prefix: usize, grid: usize, rows: &TokenRows) -> Layout {
        let (patches, tokens) = (grid * grid, prefix + grid * grid);
        let whole: Arc<[usize]> = (0..=images).map(|image| image * tokens).collect();
        let chosen: Arc<[bool]> = match rows {
            TokenRows::All => return Layout { prefix, grid, offsets: whole, computed: None, rows: None },
            TokenRows::Class => vec![false; images * patches].into(),
            TokenRows::ClassAnd(chosen) => chosen.clone(),
        };
        assert_eq!(chosen.len(), images * patches, "one choice for each patch");
        let mut rows = Vec::new();
        let mut offsets = vec![0];
        for image in 0..images {
            rows.push(image * tokens);
            let patch_rows = (0..patches).filter(|patch| chosen[image * patches + patch]);
            rows.extend(patch_rows.map(|patch| image * tokens + prefix + patch));
            offsets.push(rows.len());
        }
        Layout { prefix: 1, grid, offsets: offsets.into(), computed: Some(chosen), rows: Some(rows.into()) }
    }

    /// Returns the number of images.
    pub fn images(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Returns the number of patches of an image.
    pub fn patches_per_image(&self) -> usize {
        self.grid * self.grid
    }

    /// Picks the class tokens: [images, width].
    pub fn class(&self, tape: &mut Tape<'_>) -> Var {
        if self.x.value.rows() == self.images() {
            return self.x.clone(); // a row an image: the class tokens
        }
        tape.select_rows(&self.x, &self.offsets[..self.images()].into())
    }

    /// Picks the patches that are true in `chosen` [images · patches], in order: [chosen, width].
    ///
    /// # Panics
    /// Where a chosen patch was not computed.
    pub fn patches(&self, tape: &mut Tape<'_>, chosen: &[bool]) -> Var {
        tape.select_rows(&self.x, &self.patch_rows(chosen))
    }

    /// Picks all patches: [images · patches, width].
    ///
    /// # Panics
    /// Where not all patches were computed.
    pub fn all_patches(&self, tape: &mut Tape<'_>) -> Var {
        self.patches(tape, &vec![true; self.images() * self.patches_per_image()])
    }

    /// Averages each image's patches: [images, width].
    ///
    /// # Panics
    /// Where not all patches were computed.
    pub fn mean(&self, tape: &mut Tape<'_>) -> Var {
        assert!(self.computed.is_none(), "a mean needs every patch");
        tape.mean_tokens(&self.x, &self.offsets, self.prefix)
    }

    /// Returns the rows of x of the chosen patches, in order.
    fn patch_rows(&self, chosen: &[bool]) -> Arc<[usize]> {
        let patches = self.patches_per_image();
        assert_eq!(chosen.len(), self.images() * patches, "one choice for each patch");
        let mut rows = Vec::new();
        for (image, chosen) in chosen.chunks_exact(patches).enumerate() {
            let mut row = self.offsets[image] + self.prefix;
            for (patch, &chosen) in chosen.iter().enumerate() {
                let computed = self.computed.as_ref().is_none_or(|computed| computed[image * patches + patch]);
                assert!(computed || !chosen, "patch {patch} of image {image} was not computed");
                rows.extend(chosen.then_some(row));
                row += usize::from(computed);
            }
        }
        rows.into()
    }
}

/// The rows that a forward pass computes.
pub(super) struct Layout {
    prefix: usize,
    grid: usize,
    offsets: Arc<[usize]>,
    computed: Option<Arc<[bool]>>,
    /// The rows among all tokens of the batch; `None` for all of them.
    pub rows: Option<Arc<[usize]>>,
}

impl Layout {
    /// Returns the tokens of these rows, [rows, width].
    pub fn tokens(self, x: Var) -> Tokens {
        Tokens { x, prefix: self.prefix, grid: self.grid, offsets: self.offsets, computed: self.computed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mimco_engine::{Parameters, Tensor};

    /// Two images of 2 x 2 patches after a class token and a register; row r holds the number r.
    fn tokens(rows: &TokenRows) -> Tokens {
        let layout = Tokens::layout(2, 2, 2, rows);
        let values: Vec<f32> = match &layout.rows {
            None => (0..12).map(|row| row as f32).collect(),
            Some(rows) => rows.iter().map(|&row| row as f32).collect(),
        };
        layout.tokens(Var::constant(Tensor::from_slice([values.len(), 1], &values)))
    }

    #[test]
    fn features_are_the_same_from_all_tokens_and_from_some() {
        let parameters = Parameters::new();
        let tape = &mut Tape::inference(&parameters);
        let chosen = [true, false, false, true, false, true, false, false];
        let wider: Arc<[bool]> = [true, true, false, true, false, true, true, false].into();
        for rows in [TokenRows::All, TokenRows::ClassAnd(chosen.into()), TokenRows::ClassAnd(wider)] {
            let tokens = tokens(&rows);
            assert_eq!(tokens.class(tape).value.to_host()[..], [0.0, 6.0]);
            assert_eq!(tokens.patches(tape, &chosen).value.to_host()[..], [2.0, 5.0, 9.0]);
        }
        assert_eq!(tokens(&TokenRows::Class).class(tape).value.to_host()[..], [0.0, 6.0]);
        let all = tokens(&TokenRows::All);
        assert_eq!(all.all_patches(tape).value.to_host()[..], [2.0, 3.0, 4.0, 5.0, 8.0, 9.0, 10.0, 11.0]);
        assert_eq!(all.mean(tape).value.to_host()[..], [3.5, 9.5]);
    }

    #[test]
    #[should_panic(expected = "was not computed")]
    fn a_patch_without_a_row_is_refused() {
        let parameters = Parameters::new();
        tokens(&TokenRows::Class).patches(&mut Tape::inference(&parameters), &[true; 8]);
    }
}
