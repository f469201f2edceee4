//! bf16 products on AMX, which has eight registers of 16 rows of 64 bytes.
//!
//! A block of 32 x 32 sums takes four registers. Each step along the inner dimension loads two
//! tiles of rows and two of the panel for four products. The instructions have no stable intrinsics
//! yet, so they are written in assembly.

use super::layout::{PANEL, SIDE, SLAB};
use super::strips::Strips;
use std::arch::asm;
use std::cell::Cell;
use std::sync::OnceLock;

/// Whether the CPU has AMX with bf16 and the operating system grants it to this process; determined
/// once.
pub(super) fn granted() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| {
        const TILE: u32 = 1 << 24;
        const BF16: u32 = 1 << 22;
        // SAFETY: every x86-64 processor has the instruction. (From Rust 1.94 on the call is safe.)
        #[allow(unused_unsafe)]
        let features = unsafe { std::arch::x86_64::__cpuid_count(7, 0) }.edx;
        features & TILE != 0 && features & BF16 != 0 && request_permission()
    })
}

fn request_permission() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call takes two integers and accesses no memory of this process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// Configuration of the eight registers as `ldtilecfg` reads it: all of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = {
    let (mut bytes_per_row, mut rows) = ([0; 16], [0; 16]);
    let mut register = 0;
    while register < 8 {
        bytes_per_row[register] = 64;
        rows[register] = SIDE as u8;
        register += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], bytes_per_row, rows }
};

/// Configures the registers of this thread; each thread has its own.
fn configure() {
    thread_local!(static DONE: Cell<bool> = const { Cell::new(false) });
    if !DONE.replace(true) {
        // SAFETY: reads 64 bytes of a static, in the layout of the architecture.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIGURATION, options(nostack, readonly, preserves_flags)) };
    }
}

/// Maximum of steps of 16 words in one turn over the rows: 16 KiB of the panel. They stay in the
/// first-level cache while as much of 32 rows is read from the second and 4 KiB of sums are
/// updated.
const STEPS: usize = 8;

/// Computes product [rows, 32] = the strips' rows times the panel. Writes `rows` rounded up to a
/// multiple of 16.
pub(super) fn tiles(strips: &Strips<'_>, panel: &[u32], rows: usize, product: &mut [f32]) {
    let steps = panel.len() / (SLAB);
    if steps == 0 {
        return product.fill(0.0);
    }
    assert!(strips.inner == 1 && product.len().is_multiple_of(SLAB), "whole row-major tiles");
    configure();
    let turns = steps.div_ceil(STEPS);
    for turn in 0..turns {
        let (first_step, end) = (steps * turn / turns, steps * (turn + 1) / turns);
        let (part, panel) = (end - first_step, &panel[first_step * SLAB..]);
        let words = |strip: usize| strips.from(strip, steps * SIDE)[first_step * strips.tile..].as_ptr();
        for (pair, product) in product.chunks_mut(2 * SLAB).enumerate().take(rows.div_ceil(2 * SIDE)) {
            let whole = rows > (2 * pair + 1) * SIDE && product.len() == 2 * SLAB;
            let (first, product, begun) = (words(2 * pair), product.as_mut_ptr(), first_step > 0);
            // SAFETY: `Strips::from` has checked that each strip has `steps` tiles of sixteen rows,
            // of which `part` from `first_step` on are read. The panel has as many slabs of 2 KiB,
            // and the product one or two times 16 rows of 128 bytes.
            unsafe {
                match (whole, begun) {
                    (true, false) => block([first, words(2 * pair + 1)], strips, panel, part, product),
                    (true, true) => block_onto([first, words(2 * pair + 1)], strips, panel, part, product),
                    (false, false) => half_block(first, strips, panel, part, product),
                    (false, true) => half_block_onto(first, strips, panel, part, product),
                }
            }
        }
    }
}

/// Defines a function that multiplies 32 rows and begins with the instructions `$begin`.
macro_rules! block {
    ($name:ident, $($begin:literal),+) => {
        /// # Safety
        /// Each pointer has `steps` tiles, the panel as many slabs, and the product 32 rows; the
        /// tile registers are configured.
        unsafe fn $name(a: [*const u32; 2], strips: &Strips<'_>, panel: &[u32], steps: usize, product: *mut f32) {
            // SAFETY: ensured by the caller; only the registers named are changed.
            unsafe {
                asm!(
                    $($begin,)+
                    "2:",
                    "tileloadd tmm4, [{a0} + {row}*1]",
                    "tileloadd tmm6, [{b} + {line}*1]",
                    "tileloadd tmm7, [{b} + {line}*1 + 64]",
                    "tileloadd tmm5, [{a1} + {row}*1]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {a0}, {tile}",
                    "add {a1}, {tile}",
                    "add {b}, 2048",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{c} + {line}*1], tmm0",
                    "tilestored [{c} + {line}*1 + 64], tmm1",
                    "tilestored [{c} + {line}*1 + 2048], tmm2",
                    "tilestored [{c} + {line}*1 + 2112], tmm3",
                    a0 = inout(reg) a[0] => _,
                    a1 = inout(reg) a[1] => _,
                    b = inout(reg) panel.as_ptr() => _,
                    steps = inout(reg) steps => _,
                    c = in(reg) product,
                    row = in(reg) 4 * strips.row,
                    tile = in(reg) 4 * strips.tile,
                    line = in(reg) 4 * PANEL,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

block!(block, "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3");
block!(
    block_onto,
    "tileloadd tmm0, [{c} + {line}*1]",
    "tileloadd tmm1, [{c} + {line}*1 + 64]",
    "tileloadd tmm2, [{c} + {line}*1 + 2048]",
    "tileloadd tmm3, [{c} + {line}*1 + 2112]"
);

/// Defines a function that multiplies 16 rows and begins with the instructions `$begin`.
macro_rules! half_block {
    ($name:ident, $($begin:literal),+) => {
        /// # Safety
        /// As for 32 rows, with one strip and 16 rows of the product.
        unsafe fn $name(a: *const u32, strips: &Strips<'_>, panel: &[u32], steps: usize, product: *mut f32) {
            // SAFETY: ensured by the caller; only the registers named are changed.
            unsafe {
                asm!(
                    $($begin,)+
                    "2:",
                    "tileloadd tmm4, [{a} + {row}*1]",
                    "tileloadd tmm6, [{b} + {line}*1]",
                    "tileloadd tmm7, [{b} + {line}*1 + 64]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "add {a}, {tile}",
                    "add {b}, 2048",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{c} + {line}*1], tmm0",
                    "tilestored [{c} + {line}*1 + 64], tmm1",
                    a = inout(reg) a => _,
                    b = inout(reg) panel.as_ptr() => _,
                    steps = inout(reg) steps => _,
                    c = in(reg) product,
                    row = in(reg) 4 * strips.row,
                    tile = in(reg) 4 * strips.tile,
                    line = in(reg) 4 * PANEL,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

half_block!(half_block, "tilezero tmm0", "tilezero tmm1");
half_block!(half_block_onto, "tileloadd tmm0, [{c} + {line}*1]", "tileloadd tmm1, [{c} + {line}*1 + 64]");
