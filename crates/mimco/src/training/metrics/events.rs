//! TensorBoard event files: TFRecord frames of protobuf messages.
//!
//! This is own code with `prost` messages, because no maintained crate writes the format.
//!
//! A frame is `length: u64, crc(length): u32, data, crc(data): u32`, little-endian, with masked
//! CRC-32C (tensorflow/core/lib/io/record_writer.h). The messages are `Event` of
//! tensorflow/core/util/event.proto and `Summary` of tensorflow/core/framework/summary.proto.

use prost::Message;
use std::collections::BTreeMap;

/// Message `Event`, with the fields that scalars need.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, required, tag = "1")]
    wall_time: f64,
    /// Training step.
    #[prost(int64, optional, tag = "2")]
    step: Option<i64>,
    /// Version of the format, in the first event of a file.
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    /// Metrics of the step.
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// Message `Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    /// One value per metric.
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

/// Message `Summary.Value`, with the fields that scalars need.
#[derive(Clone, PartialEq, Message)]
struct Value {
    /// Name of the metric.
    #[prost(string, required, tag = "1")]
    tag: String,
    /// Value of the metric.
    #[prost(float, required, tag = "2")]
    simple_value: f32,
}

/// Returns the first event of a file. `wall_time` is in seconds since 1970.
pub fn version(wall_time: f64) -> Vec<u8> {
    Event { wall_time, step: None, file_version: Some("brain.Event:2".into()), summary: None }.encode_to_vec()
}

/// Returns an event with the metrics of a step, by name. `wall_time` is in seconds since 1970.
pub fn scalars(wall_time: f64, step: u64, metrics: &BTreeMap<String, f64>) -> Vec<u8> {
    let values = metrics.iter().map(|(name, &value)| Value { tag: name.clone(), simple_value: value as f32 }).collect();
    Event { wall_time, step: Some(step as i64), file_version: None, summary: Some(Summary { values }) }.encode_to_vec()
}

/// Returns an event in its frame.
pub fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(event.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(event);
    record.extend(masked_crc(event).to_le_bytes());
    record
}

/// Returns the masked CRC-32C of TFRecord: rotated plus a constant. CRCs of data that contain plain
/// CRCs would collide.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Decoded event.
    #[derive(Debug, Default, PartialEq)]
    pub struct Decoded {
        pub wall_time: f64,
        pub step: u64,
        pub version: String,
        pub values: Vec<(String, f32)>,
    }

    /// Bitwise CRC-32C with the reflected polynomial 0x82F63B78, independent of the writer's.
    fn crc(data: &[u8]) -> u32 {
        !data
            .iter()
            .fold(!0u32, |crc, &byte| (0..8).fold(crc ^ byte as u32, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }))
    }

    /// Computes ((crc >> 15) | (crc << 17)) + 0xa282ead8 modulo 2^32 in `u64`, as the format
    /// describes it.
    fn masked(data: &[u8]) -> u32 {
        let crc = crc(data) as u64;
        ((((crc >> 15) | (crc << 17)) & 0xffff_ffff) + 0xa282_ead8) as u32
    }

    /// Splits off the first `length` bytes.
    fn take<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (head, tail) = bytes.split_at(length);
        *bytes = tail;
        head
    }

    /// Splits off a varint.
    fn take_varint(bytes: &mut &[u8]) -> u64 {
        let length = bytes.iter().position(|b| b & 0x80 == 0).unwrap() + 1;
        take(bytes, length).iter().rev().fold(0, |value, byte| value << 7 | (byte & 0x7f) as u64)
    }

    /// Returns number and content of each field of a message. The content of a varint is eight
    /// bytes.
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

    /// Reads all events of a file and checks every CRC.
    pub fn read(mut file: &[u8]) -> Vec<Decoded> {
        let mut events = Vec::new();
        let u32_of = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        while !file.is_empty() {
            let length = take(&mut file, 8);
            assert_eq!(u32_of(take(&mut file, 4)), masked(length));
            let data = take(&mut file, u64::from_le_bytes(length.try_into().unwrap()) as usize);
            assert_eq!(u32_of(take(&mut file, 4)), masked(data));
            let mut decoded = Decoded::default();
            for (field, content) in fields(data) {
                match field {
                    1 => decoded.wall_time = f64::from_le_bytes(content.try_into().unwrap()),
                    2 => decoded.step = u64::from_le_bytes(content.try_into().unwrap()),
                    3 => decoded.version = String::from_utf8(content).unwrap(),
                    5 => decoded.values.extend(fields(&content).into_iter().map(|(field, value)| {
                        let value = fields(&value);
                        assert_eq!((field, value[0].0, value[1].0, value.len()), (1, 1, 2, 2));
                        (String::from_utf8(value[0].1.clone()).unwrap(), f32::from_le_bytes(value[1].1[..].try_into().unwrap()))
                    })),
                    other => panic!("field {other}"),
                }
            }
            events.push(decoded);
        }
        events
    }

    #[test]
    fn crcs_have_the_published_check_values() {
        assert_eq!(crc(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        // 0xE3069283 rotated right by 15 is 0x2507C60D: the low 15 bits, 0x1283, then the high 17,
        // 0x1C60D. 0x2507C60D + 0xA282EAD8 = 0xC78AB0E5.
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
    }

    #[test]
    fn an_event_has_the_bytes_of_the_protobuf_format() {
        let metrics = BTreeMap::from([("a".to_string(), 0.0), ("b".into(), 1.0)]);
        let expected = [
            &[0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0x10, 0x00, 0x2a, 20][..], // wall time 1.5, step 0, 20 bytes of summary
            &[0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0, 0],
            &[0x0a, 8, 0x0a, 1, b'b', 0x15, 0, 0, 0x80, 0x3f],
        ];
        assert_eq!(scalars(1.5, 0, &metrics), expected.concat());
        assert_eq!(scalars(1.5, 300, &BTreeMap::new())[9..], [0x10, 0xac, 0x02, 0x2a, 0]);
        assert_eq!(version(0.0)[..9], [0x09, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(version(1.5)[9..], *b"\x1a\x0dbrain.Event:2");
    }

    #[test]
    fn events_survive_a_round_trip() {
        let long = "x".repeat(200);
        let metrics = BTreeMap::from([("train/loss".to_string(), 0.25), ("grad".into(), f64::INFINITY), (long.clone(), -1.5)]);
        let file = [record(&version(1.5)), record(&scalars(2.5, 0, &BTreeMap::new())), record(&scalars(3.5, 300_000, &metrics))].concat();
        let values = vec![("grad".to_string(), f32::INFINITY), ("train/loss".into(), 0.25), (long, -1.5)];
        let expected = [
            Decoded { wall_time: 1.5, version: "brain.Event:2".into(), ..Decoded::default() },
            Decoded { wall_time: 2.5, ..Decoded::default() },
            Decoded { wall_time: 3.5, step: 300_000, values, ..Decoded::default() },
        ];
        assert_eq!(read(&file), expected);
    }
}
