//! Compression of a Parquet file's pages.

use std::io::Read;

/// A compression codec.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Codec {
    None,
    Snappy,
    Gzip,
    Zstd,
    Lz4,
}

impl Codec {
    /// Returns the codec with this number in the format.
    ///
    /// # Errors
    /// Fails if the codec is not supported.
    pub fn of(number: i64) -> Result<Codec, String> {
        let named = |name: &str| {
            Err(format!("is compressed with {name}, which is not supported; write it with snappy, gzip, zstd, or uncompressed"))
        };
        match number {
            0 => Ok(Codec::None),
            1 => Ok(Codec::Snappy),
            2 => Ok(Codec::Gzip),
            3 => named("LZO"),
            4 => named("brotli"),
            5 => named("LZ4 in Hadoop frames"),
            6 => Ok(Codec::Zstd),
            7 => Ok(Codec::Lz4),
            other => named(&format!("an unknown codec ({other})")),
        }
    }

    /// Returns `head` followed by the decompressed bytes of `compressed`, whose header claims
    /// `decompressed` bytes.
    ///
    /// # Errors
    /// Fails if `compressed` does not decompress to exactly `decompressed` bytes.
    pub fn decompress(self, head: &[u8], compressed: &[u8], decompressed: usize) -> Result<Vec<u8>, String> {
        // Largest expansion of a byte; zstd has no limit and gets deflate's.
        let max_expansion = match self {
            Codec::None => 1,
            Codec::Snappy => 22,
            Codec::Lz4 => 255,
            Codec::Gzip | Codec::Zstd => 1032,
        };
        if decompressed / max_expansion > compressed.len() {
            return Err(format!("a page of {} bytes claims to decompress to {decompressed} bytes", compressed.len()));
        }
        let wrong = |e: &dyn std::fmt::Display| format!("a page does not decompress: {e}");
        let (start, end) = (head.len(), head.len() + decompressed);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(end).map_err(|e| wrong(&e))?;
        bytes.extend_from_slice(head);
        if decompressed == 0 {
            return Ok(bytes); // a page of nulls, for which some writers store nothing
        }
        let limit = decompressed as u64 + 1;
        match self {
            Codec::None => bytes.extend_from_slice(compressed),
            Codec::Snappy => {
                bytes.resize(end, 0);
                let length = snap::raw::Decoder::new().decompress(compressed, &mut bytes[start..]).map_err(|e| wrong(&e))?;
                bytes.truncate(start + length);
            }
            Codec::Lz4 => {
                bytes.resize(end, 0);
                let length = lz4_flex::block::decompress_into(compressed, &mut bytes[start..]).map_err(|e| wrong(&e))?;
                bytes.truncate(start + length);
            }
            Codec::Gzip => {
                flate2::read::MultiGzDecoder::new(compressed).take(limit).read_to_end(&mut bytes).map_err(|e| wrong(&e))?;
            }
            Codec::Zstd => {
                let stream = ruzstd::decoding::StreamingDecoder::new(compressed).map_err(|e| wrong(&e))?;
                stream.take(limit).read_to_end(&mut bytes).map_err(|e| wrong(&e))?;
            }
        }
        if bytes.len() != end {
            return Err(format!("a page does not decompress to the {decompressed} bytes of its header"));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes 1, 2, 3 compressed as literals, according to each codec's specification.
    const SNAPPY: &[u8] = &[3, 2 << 2, 1, 2, 3];
    const LZ4: &[u8] = &[3 << 4, 1, 2, 3];
    const GZIP: &[u8] = &[31, 139, 8, 0, 0, 0, 0, 0, 0, 255, 1, 3, 0, 252, 255, 1, 2, 3, 0x1d, 0x80, 0xbc, 0x55, 3, 0, 0, 0];
    const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd, 0x20, 3, 3 << 3 | 1, 0, 0, 1, 2, 3];

    #[test]
    fn each_codec_decompresses_to_the_claimed_number_of_bytes_or_fails() {
        for (codec, compressed) in
            [(Codec::Snappy, SNAPPY), (Codec::Lz4, LZ4), (Codec::Gzip, GZIP), (Codec::Zstd, ZSTD), (Codec::None, &[1, 2, 3])]
        {
            assert_eq!(codec.decompress(&[9], compressed, 3), Ok(vec![9, 1, 2, 3]), "{codec:?}");
            for wrong in [1, 2, 4, 1000, i32::MAX as usize, usize::MAX] {
                assert!(codec.decompress(&[9], compressed, wrong).is_err(), "{codec:?} {wrong}");
            }
            for end in 0..compressed.len() {
                assert!(codec.decompress(&[], &compressed[..end], 3).is_err(), "{codec:?} {end}");
            }
            assert_eq!(codec.decompress(&[9], &[], 0), Ok(vec![9]));
        }
        assert!(Codec::of(4).unwrap_err().contains("brotli") && Codec::of(-1).is_err());
    }
}
