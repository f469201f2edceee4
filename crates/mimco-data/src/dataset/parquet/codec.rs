//! How a Parquet file's pages are packed.

use std::io::Read;

/// A way of packing.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Codec {
    None,
    Snappy,
    Gzip,
    Zstd,
    Lz4,
}

impl Codec {
    /// By the format's number of it.
    ///
    /// # Errors
    /// One that is not unpacked here.
    pub fn of(number: i64) -> Result<Codec, String> {
        let named = |name: &str| Err(format!("is packed by {name}, which is not read; write it with snappy, gzip, zstd, or not packed"));
        match number {
            0 => Ok(Codec::None),
            1 => Ok(Codec::Snappy),
            2 => Ok(Codec::Gzip),
            3 => named("LZO"),
            4 => named("brotli"),
            5 => named("LZ4 in Hadoop's frames"),
            6 => Ok(Codec::Zstd),
            7 => Ok(Codec::Lz4),
            other => named(&format!("an unknown codec ({other})")),
        }
    }

    /// `head` and behind it what `packed` stands for, which says that it is `unpacked` bytes.
    ///
    /// # Errors
    /// What does not unpack, or not to so many bytes.
    pub fn unpack(self, head: &[u8], packed: &[u8], unpacked: usize) -> Result<Vec<u8>, String> {
        // Bytes that a packed byte may become; zstd, which has no limit, has deflate's.
        let most = match self {
            Codec::None => 1,
            Codec::Snappy => 22,
            Codec::Lz4 => 255,
            Codec::Gzip | Codec::Zstd => 1032,
        };
        if unpacked / most > packed.len() {
            return Err(format!("a page of {} bytes says that it unpacks to {unpacked}", packed.len()));
        }
        let wrong = |e: &dyn std::fmt::Display| format!("a page does not unpack: {e}");
        let (start, end) = (head.len(), head.len() + unpacked);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(end).map_err(|e| wrong(&e))?;
        bytes.extend_from_slice(head);
        if unpacked == 0 {
            return Ok(bytes); // a page of nulls, for which some writers pack nothing
        }
        let limit = unpacked as u64 + 1;
        match self {
            Codec::None => bytes.extend_from_slice(packed),
            Codec::Snappy => {
                bytes.resize(end, 0);
                let length = snap::raw::Decoder::new().decompress(packed, &mut bytes[start..]).map_err(|e| wrong(&e))?;
                bytes.truncate(start + length);
            }
            Codec::Lz4 => {
                bytes.resize(end, 0);
                let length = lz4_flex::block::decompress_into(packed, &mut bytes[start..]).map_err(|e| wrong(&e))?;
                bytes.truncate(start + length);
            }
            Codec::Gzip => {
                flate2::read::MultiGzDecoder::new(packed).take(limit).read_to_end(&mut bytes).map_err(|e| wrong(&e))?;
            }
            Codec::Zstd => {
                let stream = ruzstd::decoding::StreamingDecoder::new(packed).map_err(|e| wrong(&e))?;
                stream.take(limit).read_to_end(&mut bytes).map_err(|e| wrong(&e))?;
            }
        }
        if bytes.len() != end {
            return Err(format!("a page says that it unpacks to {unpacked} bytes, and does not"));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes 1, 2, 3 by each codec's own description, as literals.
    const SNAPPY: &[u8] = &[3, 2 << 2, 1, 2, 3];
    const LZ4: &[u8] = &[3 << 4, 1, 2, 3];
    const GZIP: &[u8] = &[31, 139, 8, 0, 0, 0, 0, 0, 0, 255, 1, 3, 0, 252, 255, 1, 2, 3, 0x1d, 0x80, 0xbc, 0x55, 3, 0, 0, 0];
    const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd, 0x20, 3, 3 << 3 | 1, 0, 0, 1, 2, 3];

    #[test]
    fn each_codec_unpacks_to_the_bytes_that_are_told_or_not_at_all() {
        for (codec, packed) in
            [(Codec::Snappy, SNAPPY), (Codec::Lz4, LZ4), (Codec::Gzip, GZIP), (Codec::Zstd, ZSTD), (Codec::None, &[1, 2, 3])]
        {
            assert_eq!(codec.unpack(&[9], packed, 3), Ok(vec![9, 1, 2, 3]), "{codec:?}");
            for wrong in [1, 2, 4, 1000, i32::MAX as usize, usize::MAX] {
                assert!(codec.unpack(&[9], packed, wrong).is_err(), "{codec:?} {wrong}");
            }
            for end in 0..packed.len() {
                assert!(codec.unpack(&[], &packed[..end], 3).is_err(), "{codec:?} {end}");
            }
            assert_eq!(codec.unpack(&[9], &[], 0), Ok(vec![9]));
        }
        assert!(Codec::of(4).unwrap_err().contains("brotli") && Codec::of(-1).is_err());
    }
}
