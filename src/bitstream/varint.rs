// SPDX-License-Identifier: MIT OR Apache-2.0
//! Variable-length integers (LEB128), each value in exactly one form.

use bytes::{BufMut, BytesMut};

/// The most bytes a varint takes.
pub const MAX_BYTES: usize = 10;

/// Why no integer could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VarintFault {
    /// The data ends inside the integer.
    Short,
    /// Longer than needed for its value, or beyond 64 bits.
    Malformed,
}

/// Bytes that `value` takes, 1..=10.
pub fn len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Appends `value`: seven bits a byte, low bits first, bit 7 set on all bytes but the last.
pub fn put(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Reads an integer at the front of `data`: value and bytes taken.
pub fn get(data: &[u8]) -> Result<(u64, usize), VarintFault> {
    let mut value = 0u64;
    for (index, &byte) in data.iter().take(MAX_BYTES).enumerate() {
        let bits = u64::from(byte & 0x7F);
        if index == MAX_BYTES - 1 && byte > 1 {
            return Err(VarintFault::Malformed);
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            return if byte == 0 && index > 0 { Err(VarintFault::Malformed) } else { Ok((value, index + 1)) };
        }
    }
    Err(VarintFault::Short)
}

/// Maps small magnitudes of either sign to small numbers: 0, -1, 1, -2, 2 become 0, 1, 2, 3, 4.
pub fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

/// Undoes [`zigzag`].
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_forms() {
        for (value, bytes) in [
            (0u64, &[0u8][..]),
            (127, &[0x7F]),
            (128, &[0x80, 0x01]),
            (300, &[0xAC, 0x02]),
            (u64::MAX, &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]),
        ] {
            let mut out = BytesMut::new();
            put(&mut out, value);
            assert_eq!(&out[..], bytes);
            assert_eq!(get(bytes), Ok((value, bytes.len())));
        }
        assert_eq!(get(&[0x80, 0x00]), Err(VarintFault::Malformed), "overlong");
        assert_eq!(get(&[0xFF; 10]), Err(VarintFault::Malformed), "beyond 64 bits");
        assert_eq!(get(&[0x80; 9]), Err(VarintFault::Short));
        assert_eq!(get(&[]), Err(VarintFault::Short));
        assert_eq!([0, -1, 1, -2, 2, i64::MIN].map(zigzag), [0, 1, 2, 3, 4, u64::MAX]);
    }

    proptest! {
        #[test]
        fn round_trip(value: u64, shift in 0u32..64, signed: i64) {
            let value = value >> shift;
            let mut out = BytesMut::new();
            put(&mut out, value);
            prop_assert_eq!(out.len(), len(value));
            prop_assert_eq!(get(&out), Ok((value, out.len())));
            for cut in 0..out.len() {
                prop_assert_eq!(get(&out[..cut]), Err(VarintFault::Short));
            }
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }
    }
}
