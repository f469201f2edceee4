//! The token assembly on the CPU.

use super::inputs::{Masked, Prefix};
use crate::cpu::threads::for_each_chunk;
use crate::cpu::vector::add;
use crate::parameters::ParameterId;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

pub(super) fn tokens(
    tape: &mut Tape<'_>,
    patches: &Var,
    batch: usize,
    prefix: Prefix,
    positions: ParameterId,
    masked: Option<Masked>,
) -> Var {
    let Prefix { class, registers } = prefix;
    let parameters = tape.parameters();
    let width = patches.value.width();
    let count = parameters.get(positions).len() / width - 1;
    let register_rows = registers.map_or(&[][..], |registers| parameters.get(registers));
    let before = 1 + register_rows.len() / width;
    let rows = Masked::visible_rows(masked.as_ref(), batch * count);
    let mut y = Tensor::uninit([batch * (before + count), width]);
    let (cls, pos) = (parameters.get(class), parameters.get(positions));
    let mask_token = masked.as_ref().map_or(cls, |m| parameters.get(m.token));
    for_each_chunk(y.data_mut(), (before + count) * width, |image, y| {
        let (first, patch_rows) = y.split_at_mut(before * width);
        first[..width].copy_from_slice(cls);
        add(&mut first[..width], &pos[..width]);
        first[width..].copy_from_slice(register_rows);
        for (i, y) in patch_rows.chunks_exact_mut(width).enumerate() {
            y.copy_from_slice(match rows[image * count + i] {
                None => mask_token,
                Some(row) => &patches.value.data()[row * width..][..width],
            });
            add(y, &pos[(1 + i) * width..][..width]);
        }
    });
    let trained = [class, registers.unwrap_or(class), positions, masked.as_ref().map_or(class, |m| m.token)];
    if !tape.wants_gradient(&[patches], &trained) {
        return Var::constant(y);
    }
    let (node, shape) = (patches.node(), patches.value.dims().to_vec());
    tape.record(y, move |dy, pass| {
        let dy = dy.data();
        let row = |image: usize, i: usize| &dy[(image * (before + count) + i) * width..][..width];
        let of_patch = |position: usize| row(position / count, before + position % count);
        if let Some(gradient) = pass.gradient(class) {
            (0..batch).for_each(|image| add(gradient, row(image, 0)));
        }
        if let Some(gradient) = registers.and_then(|registers| pass.gradient(registers)) {
            for (i, gradient) in gradient.chunks_exact_mut(width).enumerate() {
                (0..batch).for_each(|image| add(gradient, row(image, 1 + i)));
            }
        }
        if let Some(gradient) = pass.gradient(positions) {
            let token = |i: usize| if i == 0 { 0 } else { before - 1 + i };
            for_each_chunk(gradient, width, |i, gradient| (0..batch).for_each(|image| add(gradient, row(image, token(i)))));
        }
        if let Some(gradient) = masked.as_ref().and_then(|masked| pass.gradient(masked.token)) {
            let masked = (0..rows.len()).filter(|&position| rows[position].is_none());
            masked.for_each(|position| add(gradient, of_patch(position)));
        }
        if node.is_some() {
            let visible: Vec<usize> = (0..rows.len()).filter(|&position| rows[position].is_some()).collect();
            let mut dpatches = Tensor::uninit(&shape[..]);
            for_each_chunk(dpatches.data_mut(), width, |i, d| d.copy_from_slice(of_patch(visible[i])));
            pass.add(node, dpatches);
        }
    })
}
