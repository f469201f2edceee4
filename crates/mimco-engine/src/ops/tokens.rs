//! From patch embeddings to the encoder's input: masked patches become the mask token, the class token goes first,
//! positions are added. y[b, 0] = class + pos[0]; y[b, 1 + i] = (masked(b, i) ? mask_token : patches[b, i]) + pos[1 + i].

use crate::cpu::threads::for_each_chunk;
use crate::cpu::vector::add;
use crate::{ParameterId, Tape, Tensor, Var};
use std::sync::Arc;

/// The mask token and which patches it replaces: `masked[b · tokens + i]`.
#[derive(Clone)]
pub struct Masked {
    /// The mask token [1, 1, width].
    pub token: ParameterId,
    /// [batch · tokens], true where the patch is hidden.
    pub places: Arc<[bool]>,
}

impl Tape<'_> {
    /// patches [batch · tokens, width], class [1, 1, width], positions [1, tokens + 1, width] -> [batch · (tokens + 1), width].
    pub fn tokens(&mut self, patches: &Var, class: ParameterId, positions: ParameterId, masked: Option<Masked>) -> Var {
        let parameters = self.parameters();
        let width = patches.value.width();
        let tokens = parameters.get(positions).len() / width - 1;
        let batch = patches.value.rows() / tokens;
        assert_eq!(patches.value.rows(), batch * tokens, "a position for each patch");
        let mut y = Tensor::stale([batch * (tokens + 1), width]);
        let (cls, pos) = (parameters.get(class), parameters.get(positions));
        for_each_chunk(y.data_mut(), (tokens + 1) * width, |image, y| {
            for (i, y) in y.chunks_exact_mut(width).enumerate() {
                let source = match (&masked, i) {
                    (_, 0) => cls,
                    (Some(m), _) if m.places[image * tokens + i - 1] => parameters.get(m.token),
                    _ => &patches.value.data()[(image * tokens + i - 1) * width..][..width],
                };
                y.copy_from_slice(source);
                add(y, &pos[i * width..][..width]);
            }
        });
        let trained = [class, positions, masked.as_ref().map_or(class, |m| m.token)];
        if !self.wants_gradient(&[patches], &trained) {
            return Var::constant(y);
        }
        let (node, shape) = (patches.node(), patches.value.dims().to_vec());
        self.record(y, move |dy, pass| {
            let dy = dy.data();
            let row = |image: usize, i: usize| &dy[(image * (tokens + 1) + i) * width..][..width];
            if let Some(gradient) = pass.gradient(class) {
                (0..batch).for_each(|image| add(gradient, row(image, 0)));
            }
            if let Some(gradient) = pass.gradient(positions) {
                for_each_chunk(gradient, width, |i, gradient| (0..batch).for_each(|image| add(gradient, row(image, i))));
            }
            if let Some(masked) = &masked
                && let Some(gradient) = pass.gradient(masked.token)
            {
                let places = masked.places.iter().enumerate().filter(|(_, hidden)| **hidden);
                places.for_each(|(place, _)| add(gradient, row(place / tokens, place % tokens + 1)));
            }
            if node.is_some() {
                let mut dpatches = Tensor::stale(&shape[..]);
                for_each_chunk(dpatches.data_mut(), width, |place, d| match &masked {
                    Some(m) if m.places[place] => d.fill(0.0),
                    _ => d.copy_from_slice(row(place / tokens, place % tokens + 1)),
                });
                pass.add(node, dpatches);
            }
        })
    }
}
