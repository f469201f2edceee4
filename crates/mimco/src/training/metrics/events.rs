//! TensorBoard's event format: TFRecord frames around hand-encoded protobuf messages. The few fields that scalars need do not earn a
//! protobuf compiler.
//!
//! A frame is `length: u64, crc(length): u32, data, crc(data): u32`, little-endian, with masked CRC-32C
//! (tensorflow/core/lib/io/record_writer.h); the messages are `Event` of tensorflow/core/util/event.proto and `Summary` of
//! tensorflow/core/framework/summary.proto.

use std::collections::BTreeMap;

const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

/// The first event of a file.
pub fn version(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    bytes(&mut event, 3, b"brain.Event:2");
    event
}

/// An event with scalars.
pub fn scalars(wall_time: f64, step: u64, figures: &BTreeMap<String, f64>) -> Vec<u8> {
    let mut summary = Vec::new();
    for (name, &figure) in figures {
        let mut value = Vec::new();
        bytes(&mut value, 1, name.as_bytes());
        key(&mut value, 2, FIXED_32);
        value.extend((figure as f32).to_le_bytes());
        bytes(&mut summary, 1, &value);
    }
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    key(&mut event, 2, VARINT);
    varint(&mut event, step);
    bytes(&mut event, 5, &summary);
    event
}

/// An event in its frame.
pub fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(event.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(event);
    record.extend(masked_crc(event).to_le_bytes());
    record
}

/// CRCs of data that hold CRCs collide; TFRecord turns them and adds a constant.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn key(message: &mut Vec<u8>, field: u8, kind: u8) {
    message.push(field << 3 | kind);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn double(message: &mut Vec<u8>, field: u8, value: f64) {
    key(message, field, FIXED_64);
    message.extend(value.to_le_bytes());
}

fn bytes(message: &mut Vec<u8>, field: u8, value: &[u8]) {
    key(message, field, BYTES);
    varint(message, value.len() as u64);
    message.extend(value);
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What a reader sees of an event.
    #[derive(Debug, Default, PartialEq)]
    pub struct Seen {
        pub wall_time: f64,
        pub step: u64,
        pub version: String,
        pub values: Vec<(String, f32)>,
    }

    /// CRC-32C bit by bit, reflected polynomial 0x82F63B78: shares nothing with the writer's.
    fn crc(data: &[u8]) -> u32 {
        !data
            .iter()
            .fold(!0u32, |crc, &byte| (0..8).fold(crc ^ byte as u32, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }))
    }

    /// ((crc >> 15) | (crc << 17)) + 0xa282ead8 modulo 2^32, as the format's description has it, in wide integers.
    fn masked(data: &[u8]) -> u32 {
        let crc = crc(data) as u64;
        ((((crc >> 15) | (crc << 17)) & 0xffff_ffff) + 0xa282_ead8) as u32
    }

    fn take<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (head, tail) = bytes.split_at(length);
        *bytes = tail;
        head
    }

    fn take_varint(bytes: &mut &[u8]) -> u64 {
        let length = bytes.iter().position(|b| b & 0x80 == 0).unwrap() + 1;
        take(bytes, length).iter().rev().fold(0, |value, byte| value << 7 | (byte & 0x7f) as u64)
    }

    /// Field number and content of a message's fields; a varint's content as eight bytes.
    fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut fields = Vec::new();
        while !message.is_empty() {
            let key = take_varint(&mut message);
            let content = match key & 7 {
                0 => take_varint(&mut message).to_le_bytes().to_vec(),
                1 => take(&mut message, 8).to_vec(),
                2 => {
                    let length = take_varint(&mut message) as usize;
                    take(&mut message, length).to_vec()
                }
                5 => take(&mut message, 4).to_vec(),
                other => panic!("wire type {other}"),
            };
            fields.push((key >> 3, content));
        }
        fields
    }

    /// Reads an event file whole, checking every CRC.
    pub fn read(mut file: &[u8]) -> Vec<Seen> {
        let mut events = Vec::new();
        let u32_of = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        while !file.is_empty() {
            let length = take(&mut file, 8);
            assert_eq!(u32_of(take(&mut file, 4)), masked(length));
            let data = take(&mut file, u64::from_le_bytes(length.try_into().unwrap()) as usize);
            assert_eq!(u32_of(take(&mut file, 4)), masked(data));
            let mut seen = Seen::default();
            for (field, content) in fields(data) {
                match field {
                    1 => seen.wall_time = f64::from_le_bytes(content.try_into().unwrap()),
                    2 => seen.step = u64::from_le_bytes(content.try_into().unwrap()),
                    3 => seen.version = String::from_utf8(content).unwrap(),
                    5 => seen.values.extend(fields(&content).into_iter().map(|(field, value)| {
                        let value = fields(&value);
                        assert_eq!((field, value[0].0, value[1].0, value.len()), (1, 1, 2, 2));
                        (String::from_utf8(value[0].1.clone()).unwrap(), f32::from_le_bytes(value[1].1[..].try_into().unwrap()))
                    })),
                    other => panic!("field {other}"),
                }
            }
            events.push(seen);
        }
        events
    }

    #[test]
    fn the_check_values() {
        assert_eq!(crc(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        // 0xE3069283 turned right by 15 is 0x2507C60D (its low 15 bits, 0x1283, lead; its high 17, 0x1C60D, follow), and
        // 0x2507C60D + 0xA282EAD8 = 0xC78AB0E5.
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
    }

    #[test]
    fn a_reader_finds_what_was_written() {
        let long = "x".repeat(200);
        let figures = BTreeMap::from([("train/loss".to_string(), 0.25), ("grad".into(), f64::INFINITY), (long.clone(), -1.5)]);
        let file = [record(&version(1.5)), record(&scalars(2.5, 0, &BTreeMap::new())), record(&scalars(3.5, 300_000, &figures))].concat();
        let values = vec![("grad".to_string(), f32::INFINITY), ("train/loss".into(), 0.25), (long, -1.5)];
        let expected = [
            Seen { wall_time: 1.5, version: "brain.Event:2".into(), ..Seen::default() },
            Seen { wall_time: 2.5, ..Seen::default() },
            Seen { wall_time: 3.5, step: 300_000, values, ..Seen::default() },
        ];
        assert_eq!(read(&file), expected);
    }
}
