//! Devices, and the memory that tensors, parameters and gradients hold on them.

use crate::cpu::buffer::Buffer;
use std::borrow::Cow;
use std::ops::Range;

/// Where elements are stored and operators run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Device {
    /// The processor and its main memory.
    #[default]
    Cpu,
}

/// A block of f32 on a device.
#[derive(Clone)]
pub(crate) enum Memory {
    Cpu(Buffer),
}

impl Memory {
    /// Allocates `len` zeros.
    pub fn zeros(device: Device, len: usize) -> Memory {
        match device {
            Device::Cpu => Memory::Cpu(Buffer::zeros(len)),
        }
    }

    /// Returns the device that holds the block.
    pub fn device(&self) -> Device {
        match self {
            Memory::Cpu(_) => Device::Cpu,
        }
    }

    /// Number of f32.
    pub fn len(&self) -> usize {
        match self {
            Memory::Cpu(buffer) => buffer.len(),
        }
    }

    /// Returns the block in main memory, for the kernels of the CPU.
    pub fn cpu(&self) -> &Buffer {
        match self {
            Memory::Cpu(buffer) => buffer,
        }
    }

    /// Returns the block in main memory to write, for the kernels of the CPU.
    pub fn cpu_mut(&mut self) -> &mut Buffer {
        match self {
            Memory::Cpu(buffer) => buffer,
        }
    }

    /// Copies a range to the host; on the CPU borrows it.
    pub fn to_host(&self, range: Range<usize>) -> Cow<'_, [f32]> {
        match self {
            Memory::Cpu(buffer) => Cow::Borrowed(&buffer[range]),
        }
    }

    /// Lets the host change a range, then copies it back to the device.
    pub fn update_on_host(&mut self, range: Range<usize>, update: impl FnOnce(&mut [f32])) {
        match self {
            Memory::Cpu(buffer) => update(&mut buffer[range]),
        }
    }
}
