// SPDX-License-Identifier: MIT OR Apache-2.0
//! A reader of as much of ONNX's protobuf encoding as is needed to find the other files that a graph reads.

use std::collections::BTreeSet;

/// Messages may nest this deep, as in protobuf's own readers.
const MAX_DEPTH: usize = 100;

/// The files that a graph reads besides itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct References {
    /// Locations of external weights, as the graph names them.
    pub weights: BTreeSet<String>,
    /// Operators that hold or name compiled code.
    pub compiled: bool,
}

/// Messages of onnx.proto that can lead to a tensor.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    Function,
    Training,
}

impl Message {
    /// The message in `field`, if it is one of these.
    fn child(self, field: u64) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) | (Self::Training, 1 | 2) => Self::Graph,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::SparseTensor,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            _ => return None,
        })
    }
}

const NODE_OPERATOR: u64 = 4;
const TENSOR_EXTERNAL_DATA: u64 = 13;
const TENSOR_DATA_LOCATION: u64 = 14;
const ENTRY_KEY: u64 = 1;
const ENTRY_VALUE: u64 = 2;

/// A field of a message.
enum ProtoField<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of no interest here.
    Fixed,
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self, length: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }

    /// The next field's number and value; `None`: this is no protobuf.
    fn next(&mut self) -> Option<(u64, ProtoField<'a>)> {
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => ProtoField::Number(self.number()?),
            1 => self.bytes(8).map(|_| ProtoField::Fixed)?,
            2 => {
                let length = self.number()?;
                ProtoField::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| ProtoField::Fixed)?,
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

/// The files that the graph in `model` reads besides itself; `None`: it is not an ONNX graph.
pub(super) fn references(model: &[u8]) -> Option<References> {
    let mut found = References::default();
    walk(Message::Model, model, 0, &mut found)?;
    Some(found)
}

fn walk(message: Message, data: &[u8], depth: usize, found: &mut References) -> Option<()> {
    if depth > MAX_DEPTH {
        return None;
    }
    let mut fields = Fields(data);
    let (mut external, mut location) = (false, None);
    while !fields.0.is_empty() {
        match (message, fields.next()?) {
            (Message::Node, (NODE_OPERATOR, ProtoField::Bytes(b"EPContext"))) => found.compiled = true,
            (Message::Tensor, (TENSOR_DATA_LOCATION, ProtoField::Number(place))) => external = place != 0,
            (Message::Tensor, (TENSOR_EXTERNAL_DATA, ProtoField::Bytes(entry))) => location = read_location(entry)?.or(location),
            (_, (field, ProtoField::Bytes(bytes))) => {
                if let Some(child) = message.child(field) {
                    walk(child, bytes, depth + 1, found)?;
                }
            }
            _ => {}
        }
    }
    if external || location.is_some() {
        found.weights.insert(location.unwrap_or_default());
    }
    Some(())
}

/// The value of an entry of external data with the key `location`.
fn read_location(entry: &[u8]) -> Option<Option<String>> {
    let mut fields = Fields(entry);
    let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
    while !fields.0.is_empty() {
        match fields.next()? {
            (ENTRY_KEY, ProtoField::Bytes(bytes)) => key = bytes,
            (ENTRY_VALUE, ProtoField::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    Some((key == b"location").then(|| String::from_utf8_lossy(value).into_owned()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A field with bytes.
    pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 & 0x7F | 2];
        if number > 15 {
            out = vec![number << 3 | 0x80 | 2, number >> 4];
        }
        let mut length = bytes.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend(bytes);
        out
    }

    /// A tensor with weights at `location`.
    pub fn external(location: &str) -> Vec<u8> {
        let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
        [field(13, &entry), vec![14 << 3, 1]].concat()
    }

    /// A model whose graph has the tensor as an initializer.
    pub fn model(tensor: &[u8]) -> Vec<u8> {
        field(7, &field(5, tensor))
    }

    fn names(model: &[u8]) -> Vec<String> {
        references(model).expect("a graph").weights.into_iter().collect()
    }

    #[test]
    fn external_weights_are_found_wherever_they_are() {
        let tensor = external("w.bin");
        assert_eq!(names(&model(&tensor)), ["w.bin"]);
        let attribute = |number| field(7, &field(1, &field(5, &field(number, &tensor))));
        assert_eq!(names(&attribute(5)), ["w.bin"], "a constant");
        assert_eq!(names(&attribute(10)), ["w.bin"], "one of several");
        let body = field(7, &field(1, &field(5, &field(6, &field(5, &tensor)))));
        assert_eq!(names(&body), ["w.bin"], "in a loop's body");
        assert_eq!(names(&field(7, &field(15, &field(1, &tensor)))), ["w.bin"], "sparse");
        assert_eq!(names(&field(25, &field(7, &field(5, &field(5, &tensor))))), ["w.bin"], "in a function");
        assert_eq!(names(&model(&[14 << 3, 1])), [""], "external, and nowhere");
        assert!(names(&model(&field(9, b"raw data"))).is_empty());
    }

    #[test]
    fn compiled_graphs_are_found_and_rubbish_is_none() {
        assert!(references(&field(7, &field(1, &field(4, b"EPContext")))).expect("a graph").compiled);
        assert!(!references(&field(7, &field(1, &field(4, b"Conv")))).expect("a graph").compiled);
        for rubbish in [&b"not a graph"[..], &[0x3A, 0xFF], &[0xFF; 12], &[0x3B]] {
            assert_eq!(references(rubbish), None, "{rubbish:?}");
        }
        let mut deep = model(&[]);
        for _ in 0..1000 {
            deep = field(7, &field(1, &field(5, &field(6, &deep[2..]))));
        }
        let _ = references(&deep);
    }

    #[test]
    fn real_graphs_are_read() {
        let builtin = include_bytes!("../../onnx/models/builtin/decoder.onnx");
        assert_eq!(references(builtin), Some(References::default()));
        let beside = include_bytes!("../../tests/bundles/official/decoder.onnx");
        assert_eq!(names(beside), ["decoder.onnx.data"]);
    }
}
