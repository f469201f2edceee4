//! Access to a file's bytes. No call allocates more memory than the file has bytes left for.

use super::dtype::Dtype;
use super::read_error::ReadError;
use half::{bf16, f16};
use std::io::{self, Read, Seek, SeekFrom};

trait Source: Read + Seek + Send {}
impl<T: Read + Seek + Send> Source for T {}

/// Open file with its length in bytes.
pub(super) struct Input {
    source: Box<dyn Source>,
    length: u64,
}

impl Input {
    /// Determines the length of a file.
    pub fn new(mut source: impl Read + Seek + Send + 'static) -> io::Result<Input> {
        let length = source.seek(SeekFrom::End(0))?;
        Ok(Input { source: Box::new(source), length })
    }

    /// Returns the length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads `length` bytes from `start` on. Fails before it allocates if the file is shorter.
    pub fn bytes(&mut self, start: u64, length: u64) -> Result<Vec<u8>, ReadError> {
        if start.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(ReadError::Truncated);
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| ReadError::Truncated)?];
        self.source.seek(SeekFrom::Start(start))?;
        self.source.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads `count` contiguous elements from the byte `start` on. The bytes pass through a buffer
    /// that remains in the processor's cache, so only the result needs memory of its size.
    pub fn elements(&mut self, dtype: Dtype, start: u64, count: usize) -> Result<Vec<f32>, ReadError> {
        const BUFFER: usize = 1 << 18;
        let length = count.checked_mul(dtype.size()).ok_or(ReadError::Truncated)?;
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(ReadError::Truncated);
        }
        let mut elements = Vec::with_capacity(count);
        let mut buffer = vec![0; length.min(BUFFER)];
        self.source.seek(SeekFrom::Start(start))?;
        let mut left = length;
        while left > 0 {
            buffer.truncate(left);
            self.source.read_exact(&mut buffer)?;
            widen(dtype, &buffer, &mut elements);
            left -= buffer.len();
        }
        Ok(elements)
    }
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.source.read(into)
    }
}

impl Seek for Input {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.source.seek(to)
    }
}

/// Converts elements of a file to f32 and appends them.
fn widen(dtype: Dtype, bytes: &[u8], into: &mut Vec<f32>) {
    match dtype {
        Dtype::F64 => into.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
        Dtype::F32 => into.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        Dtype::F16 => into.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
        Dtype::BF16 => into.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
    }
}
