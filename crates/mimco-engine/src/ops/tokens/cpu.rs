//! From patch embeddings to the encoder's input: masked patches become the mask token, the class token goes first, registers (Darcet et al. 2023)
//! behind it, positions are added to all but those. With R registers y[b, 0] = class + pos[0]; y[b, 1 + i] = register i;
//! y[b, 1 + R + i] = (masked(b, i) ? mask_token : patches[b, i]) + pos[1 + i].

use crate::cpu::threads::for_each_chunk;
use crate::cpu::vector::add;
use crate::{ParameterId, Tape, Tensor, Var};
use std::sync::Arc;

/// The tokens that stand before the patches.
#[derive(Clone, Copy)]
pub struct Prefix {
    /// The class token [1, 1, width].
    pub class: ParameterId,
    /// Registers [1, R, width].
    pub registers: Option<ParameterId>,
}

/// The mask token and which patches it replaces.
#[derive(Clone)]
pub struct Masked {
    /// The mask token [1, 1, width].
    pub token: ParameterId,
    /// [batch · tokens], true where the patch is hidden.
    pub places: Arc<[bool]>,
}

impl Masked {
    /// For each place the row of its patch among those that are seen; nothing for hidden ones.
    fn rows(places: Option<&Masked>, count: usize) -> Vec<Option<usize>> {
        let hidden = |place: usize| places.is_some_and(|masked| masked.places[place]);
        let mut seen = 0..;
        (0..count).map(|place| if hidden(place) { None } else { seen.next() }).collect()
    }
}

impl Tape<'_> {
    /// patches [seen, width], those of the batch that are not masked, in order; class [1, 1, width], registers [1, R, width], positions
    /// [1, patches + 1, width] -> [batch · (1 + R + patches), width].
    pub fn tokens(&mut self, patches: &Var, batch: usize, prefix: Prefix, positions: ParameterId, masked: Option<Masked>) -> Var {
        let Prefix { class, registers } = prefix;
        let parameters = self.parameters();
        let width = patches.value.width();
        let tokens = parameters.get(positions).len() / width - 1;
        let own = registers.map_or(&[][..], |registers| parameters.get(registers));
        let before = 1 + own.len() / width;
        assert!(masked.as_ref().is_none_or(|m| m.places.len() == batch * tokens), "a place for each patch");
        let rows = Masked::rows(masked.as_ref(), batch * tokens);
        assert_eq!(patches.value.rows(), rows.iter().flatten().count(), "a row for each patch that is seen");
        let mut y = Tensor::stale([batch * (before + tokens), width]);
        let (cls, pos) = (parameters.get(class), parameters.get(positions));
        let mask_token = masked.as_ref().map_or(cls, |m| parameters.get(m.token));
        for_each_chunk(y.data_mut(), (before + tokens) * width, |image, y| {
            let (first, patch_rows) = y.split_at_mut(before * width);
            first[..width].copy_from_slice(cls);
            add(&mut first[..width], &pos[..width]);
            first[width..].copy_from_slice(own);
            for (i, y) in patch_rows.chunks_exact_mut(width).enumerate() {
                y.copy_from_slice(match rows[image * tokens + i] {
                    None => mask_token,
                    Some(row) => &patches.value.data()[row * width..][..width],
                });
                add(y, &pos[(1 + i) * width..][..width]);
            }
        });
        let trained = [class, registers.unwrap_or(class), positions, masked.as_ref().map_or(class, |m| m.token)];
        if !self.wants_gradient(&[patches], &trained) {
            return Var::constant(y);
        }
        let (node, shape) = (patches.node(), patches.value.dims().to_vec());
        self.record(y, move |dy, pass| {
            let dy = dy.data();
            let row = |image: usize, i: usize| &dy[(image * (before + tokens) + i) * width..][..width];
            let of_place = |place: usize| row(place / tokens, before + place % tokens);
            if let Some(gradient) = pass.gradient(class) {
                (0..batch).for_each(|image| add(gradient, row(image, 0)));
            }
            if let Some(gradient) = registers.and_then(|registers| pass.gradient(registers)) {
                for (i, gradient) in gradient.chunks_exact_mut(width).enumerate() {
                    (0..batch).for_each(|image| add(gradient, row(image, 1 + i)));
                }
            }
            if let Some(gradient) = pass.gradient(positions) {
                let place = |i: usize| if i == 0 { 0 } else { before - 1 + i };
                for_each_chunk(gradient, width, |i, gradient| (0..batch).for_each(|image| add(gradient, row(image, place(i)))));
            }
            if let Some(gradient) = masked.as_ref().and_then(|masked| pass.gradient(masked.token)) {
                let hidden = (0..rows.len()).filter(|&place| rows[place].is_none());
                hidden.for_each(|place| add(gradient, of_place(place)));
            }
            if node.is_some() {
                let seen: Vec<usize> = (0..rows.len()).filter(|&place| rows[place].is_some()).collect();
                let mut dpatches = Tensor::stale(&shape[..]);
                for_each_chunk(dpatches.data_mut(), width, |i, d| d.copy_from_slice(of_place(seen[i])));
                pass.add(node, dpatches);
            }
        })
    }
}
