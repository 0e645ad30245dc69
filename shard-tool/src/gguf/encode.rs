//! Writes settings as a GGUF file of their own: metadata, and the few tensors that are settings.
//!
//! The reader of this crate reads them back as the same [`GgufMetadata`]. Numbers are written in
//! the widest type, in which they were read. Keys that describe the original file are left out.

use super::header::ALIGNMENT_DEFAULT;
use super::kind;
use super::metadata::{GgufMetadata, MetadataArray, MetadataValue};
use crate::StoredTensor;

const VERSION: u32 = 3;

/// The bytes of a whole file. Each tensor comes with its data.
pub(crate) fn encode(metadata: &GgufMetadata, tensors: &[(StoredTensor, Vec<u8>)]) -> Vec<u8> {
    let of_the_file = |key: &str| key == "general.alignment" || key.starts_with("split.");
    let pairs: Vec<_> = metadata.iter().filter(|(key, _)| !of_the_file(key)).collect();
    let mut out = b"GGUF".to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        string(&mut out, key);
        pair(&mut out, value);
    }
    let mut offset = 0_u64;
    for (info, bytes) in tensors {
        string(&mut out, &info.name);
        out.extend(u32::try_from(info.shape.len()).unwrap_or(u32::MAX).to_le_bytes());
        info.shape.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
        out.extend(info.dtype.gguf_id().unwrap_or(u32::MAX).to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + bytes.len() as u64).next_multiple_of(ALIGNMENT_DEFAULT);
    }
    for (_, bytes) in tensors {
        align(&mut out);
        out.extend(bytes);
    }
    out
}

fn align(out: &mut Vec<u8>) {
    while !(out.len() as u64).is_multiple_of(ALIGNMENT_DEFAULT) {
        out.push(0);
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Writes type and value of a pair.
fn pair(out: &mut Vec<u8>, value: &MetadataValue) {
    let mut scalar = |kind: u32, bytes: &[u8]| {
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        MetadataValue::Unsigned(value) => scalar(kind::U64, &value.to_le_bytes()),
        MetadataValue::Signed(value) => scalar(kind::I64, &value.to_le_bytes()),
        MetadataValue::Float(value) => scalar(kind::F64, &value.to_le_bytes()),
        MetadataValue::Bool(value) => scalar(kind::BOOL, &[u8::from(*value)]),
        MetadataValue::String(text) => {
            scalar(kind::STRING, &[]);
            string(out, text);
        }
        MetadataValue::Array(values) => {
            scalar(kind::ARRAY, &[]);
            array(out, values);
        }
    }
}

/// Writes the type of the elements, their number, and the elements.
fn array(out: &mut Vec<u8>, values: &MetadataArray) {
    let mut head = |kind: u32, count: usize| {
        out.extend(kind.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    };
    match values {
        MetadataArray::Unsigned(values) => {
            head(kind::U64, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        MetadataArray::Signed(values) => {
            head(kind::I64, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        MetadataArray::Float(values) => {
            head(kind::F64, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        MetadataArray::Bool(values) => {
            head(kind::BOOL, values.len());
            out.extend(values.iter().map(|value| u8::from(*value)));
        }
        MetadataArray::String(values) => {
            head(kind::STRING, values.len());
            values.iter().for_each(|value| string(out, value));
        }
    }
}
