//! The file under a reader: its bytes, never more than it has, and what can be wrong with them.

use half::{bf16, f16};
use std::io::{self, Read, Seek, SeekFrom};

use super::dtype::Dtype;
use super::fault::Fault;

trait Source: Read + Seek + Send {}
impl<T: Read + Seek + Send> Source for T {}

/// An open file and its length.
pub(super) struct Input {
    source: Box<dyn Source>,
    length: u64,
}

impl Input {
    pub fn new(mut source: impl Read + Seek + Send + 'static) -> io::Result<Input> {
        let length = source.seek(SeekFrom::End(0))?;
        Ok(Input { source: Box::new(source), length })
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes from `start` on; asks for no memory where the file has not so many.
    pub fn bytes(&mut self, start: u64, length: u64) -> Result<Vec<u8>, Fault> {
        if start.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(Fault::Cut);
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| Fault::Cut)?];
        self.source.seek(SeekFrom::Start(start))?;
        self.source.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// `count` numbers that lie side by side from the byte `start` on. They go through a buffer that stays in the processor's cache, so the
    /// numbers themselves are the only memory of their size.
    pub fn numbers(&mut self, dtype: Dtype, start: u64, count: usize) -> Result<Vec<f32>, Fault> {
        const BUFFER: usize = 1 << 18;
        let length = count.checked_mul(dtype.size()).ok_or(Fault::Cut)?;
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(Fault::Cut);
        }
        let mut numbers = Vec::with_capacity(count);
        let mut buffer = vec![0; length.min(BUFFER)];
        self.source.seek(SeekFrom::Start(start))?;
        let mut left = length;
        while left > 0 {
            buffer.truncate(left);
            self.source.read_exact(&mut buffer)?;
            widen(dtype, &buffer, &mut numbers);
            left -= buffer.len();
        }
        Ok(numbers)
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

fn widen(dtype: Dtype, bytes: &[u8], into: &mut Vec<f32>) {
    match dtype {
        Dtype::F64 => into.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
        Dtype::F32 => into.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        Dtype::F16 => into.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
        Dtype::BF16 => into.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
    }
}
