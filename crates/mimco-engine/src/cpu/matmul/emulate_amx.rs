//! An emulator of the six AMX instructions of the kernel, for tests on machines without AMX.
//!
//! Instructions that the CPU refuses are decoded and executed as Intel's manual (volume 2)
//! describes them, so that the kernel's instructions, addresses and loops can be tested anywhere.

use crate::element::Element;
use half::bf16;
use std::cell::UnsafeCell;

const ROWS: usize = 16;
const BYTES: usize = 64;

/// Contents of the eight registers of the only thread that runs the kernel.
struct Registers(UnsafeCell<[[[u8; BYTES]; ROWS]; 8]>);

// SAFETY: only one test uses them, in one thread.
unsafe impl Sync for Registers {}

static REGISTERS: Registers = Registers(UnsafeCell::new([[[0; BYTES]; ROWS]; 8]));

/// Installs the emulator for refused instructions of this process.
pub(super) fn install() {
    // SAFETY: the handler has the signature that SA_SIGINFO requires.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_refusal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
    }
}

extern "C" fn on_refusal(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system passes the interrupted thread's registers; the bytes at the instruction
    // pointer are code.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let at = registers[libc::REG_RIP as usize] as *const u8;
        match execute(at, registers) {
            Some(length) => registers[libc::REG_RIP as usize] += length as i64,
            None => {
                libc::signal(libc::SIGILL, libc::SIG_DFL); // the next attempt ends the process
            }
        }
    }
}

/// Value of a general register by its number in an instruction.
fn general(registers: &[i64; 23], number: u8) -> u64 {
    use libc::*;
    let order = [
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13,
        REG_R14, REG_R15,
    ];
    registers[order[number as usize] as usize] as u64
}

/// Executes the instruction and returns its length. `None` if it is not one of the six.
unsafe fn execute(at: *const u8, registers: &[i64; 23]) -> Option<usize> {
    // SAFETY: code is mapped beyond the longest instruction, except at the very end of a program.
    let code: &[u8; 12] = unsafe { &*at.cast() };
    let [0xc4, first, second, opcode, modrm, ..] = *code else { return None };
    let (extended_reg, extended_index, extended_base) = (!first >> 7 & 1, !first >> 6 & 1, !first >> 5 & 1);
    let (prefix, operand) = (second & 3, !second >> 3 & 15);
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    if first & 31 != 2 || extended_reg != 0 {
        return None;
    }
    // SAFETY: only one thread uses them.
    let tiles = unsafe { &mut *REGISTERS.0.get() };
    if mode == 3 {
        match (opcode, prefix) {
            (0x49, 3) => tiles[reg as usize] = [[0; BYTES]; ROWS],
            (0x5c, 2) => multiply(tiles, reg as usize, rm as usize, operand as usize),
            _ => return None,
        }
        return Some(5);
    }
    let (mut length, mut base, mut stride) = (5, rm | extended_base << 3, 0);
    if rm == 4 {
        let sib = code[5];
        length = 6;
        base = sib & 7 | extended_base << 3;
        let index = sib >> 3 & 7 | extended_index << 3;
        stride = if index == 4 { 0 } else { general(registers, index) << (sib >> 6) };
    }
    let displacement = match mode {
        0 => 0,
        1 => code[length] as i8 as i64,
        _ => i32::from_le_bytes(code[length..length + 4].try_into().ok()?) as i64,
    };
    length += [0, 1, 4][mode as usize];
    let address = general(registers, base).wrapping_add(displacement as u64) as *mut u8;
    match (opcode, prefix) {
        (0x49, 0) => {
            // SAFETY: the address is that of the kernel's configuration of 64 bytes.
            let configuration: &[u8; 64] = unsafe { &*address.cast() };
            let as_used = (0..8).all(|t| configuration[16 + 2 * t..][..2] == [64, 0] && configuration[48 + t] == 16);
            (configuration[0] == 1 && as_used).then_some(length)
        }
        (0x4b, 3 | 2) => {
            for (row, bytes) in tiles[reg as usize].iter_mut().enumerate() {
                // SAFETY: the same access as the instruction, whose addresses are under test.
                let memory = unsafe { &mut *address.add(row * stride as usize).cast::<[u8; BYTES]>() };
                if prefix == 3 { *bytes = *memory } else { *memory = *bytes }
            }
            Some(length)
        }
        _ => None,
    }
}

/// Adds a·b to c in bf16: c[m][n] += Σ over k of a[m][2k] b[k][2n] + a[m][2k + 1] b[k][2n + 1].
fn multiply(tiles: &mut [[[u8; BYTES]; ROWS]; 8], c: usize, a: usize, b: usize) {
    let half =
        |tile: &[[u8; BYTES]; ROWS], row: usize, i: usize| Element::to_f32(bf16::from_le_bytes([tile[row][2 * i], tile[row][2 * i + 1]]));
    for m in 0..ROWS {
        for n in 0..BYTES / 4 {
            let place = 4 * n..4 * n + 4;
            let mut sum = f32::from_le_bytes(tiles[c][m][place.clone()].try_into().unwrap_or_default());
            for k in 0..ROWS {
                for i in 0..2 {
                    sum += half(&tiles[a], m, 2 * k + i) * half(&tiles[b], k, 2 * n + i);
                }
            }
            tiles[c][m][place].copy_from_slice(&sum.to_le_bytes());
        }
    }
}
