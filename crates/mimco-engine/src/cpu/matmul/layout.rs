//! Sizes of panels and tiles.

/// Columns of a panel.
pub(crate) const PANEL: usize = 32;
/// Rows of a strip, and words of the inner dimension in a slab or a tile of the left factor.
pub(super) const SIDE: usize = 16;
/// Words of a tile of the left factor.
pub(super) const TILE: usize = SIDE * SIDE;
/// Words of a slab, sixteen rows of words of a panel.
pub(super) const SLAB: usize = SIDE * PANEL;
