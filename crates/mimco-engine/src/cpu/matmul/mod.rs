//! Matrix products c = a·b of f32 or bf16 factors with f32 sums, whose result is handed over in
//! tiles while it is in cache.
//!
//! The right factor b is packed once into [`Panels`]. The left factor a ([`Left`]) is read in
//! place, or packed by blocks of rows while they are in cache and rounded if the product is in
//! bf16. Each panel of a block of rows is computed in one [`Tile`] of f32. The caller adds bias,
//! activation or residual and stores the tile before it leaves the first-level cache.
//!
//! ```text
//!        a [rows, inner]              b [inner, columns]           c [rows, columns]
//!
//!        <--- inner --->                 panel panel ..               sheet sheet ..
//!       +-------+-------+               +-----+-----+   ^            +-----+-----+
//!  s 16 | tile  | tile  |          slab |16x32|     |   |         16 |     |     |
//!  t    +-------+-------+               +-----+-----+ inner          | one | one |
//!  r 16 | tile  | tile  |     x    slab |16x32|     |   |    =    16 | Tile| Tile|  one block
//!  i    +-------+-------+               +-----+-----+   |            |     |     |  of rows
//!  p    |       |       |               |     |     |   v            |     |     |
//!  s    +-------+-------+               +-----+-----+                +-----+-----+
//!         16 words                        32 columns                   32 columns
//! ```
//!
//! Glossary:
//! - **word**: 32 bits along the inner dimension, one f32 or two neighbors in bf16. AMX and
//!   AVX512-BF16 multiply words; the portable loop splits them by a shift and a mask. One packing
//!   thus serves every kernel.
//! - **panel**: 32 columns ([`PANEL`]) of a packed matrix; row by row, 32 words for each word of
//!   the inner dimension.
//! - **slab**: 16 rows of words of a panel, the unit of packing.
//! - **strip**: 16 rows of the left factor as a kernel reads them.
//! - **tile** of the left factor: 16 words of each row of a strip.
//! - **sheet**: the part of a product under one panel, rows of 32 f32. A [`Tile`] is the sheet of a
//!   block of rows; [`product_in_sheets`] writes all sheets one after the other.
//! - **block**: rows of the left factor that stay in the second-level cache, the work of one
//!   thread.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod emulate_amx;
mod kernel;
mod layout;
mod operand;
mod panels;
mod product;
mod strips;
#[cfg(test)]
mod tests;
mod tile;
mod words;

pub(crate) use layout::PANEL;
pub(crate) use operand::Operand;
pub(crate) use panels::{PanelWriter, Panels};
pub(crate) use product::{in_blocks, product, product_in_parts, product_in_sheets, product_serial};
pub(crate) use strips::Left;
pub(crate) use tile::Tile;
