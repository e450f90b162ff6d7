// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two checksums of the stream: CRC-8 for headers, CRC-16 for payloads.

/// CRC-8/AUTOSAR: polynomial 0x2F, initial value 0xFF, not reflected, final xor 0xFF. Check value ("123456789") 0xDF.
///
/// It finds every error of up to three bits in up to 119 bits, and an all-zero header does not pass.
pub fn crc8(data: &[u8]) -> u8 {
    data.iter().fold(0xFF, |crc, &byte| TABLE_8[usize::from(crc ^ byte)]) ^ 0xFF
}

/// CRC-16/IBM-3740: polynomial 0x1021, initial value 0xFFFF, not reflected, no final xor. Check value 0x29B1.
pub fn crc16(data: &[u8]) -> u16 {
    crc16_of(&[data])
}

/// [`crc16`] of parts that follow each other.
pub(super) fn crc16_of(parts: &[&[u8]]) -> u16 {
    parts.iter().copied().flatten().fold(0xFFFF, |crc, &byte| {
        let [high, low] = crc.to_be_bytes();
        u16::from_be_bytes([low, 0]) ^ TABLE_16[usize::from(high ^ byte)]
    })
}

const TABLE_8: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u8;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc << 1) ^ if crc & 0x80 != 0 { 0x2F } else { 0 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

const TABLE_16: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc << 1) ^ if crc & 0x8000 != 0 { 0x1021 } else { 0 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_check_values() {
        assert_eq!(crc8(b"123456789"), 0xDF);
        assert_eq!(crc8(&[0; 4]), 0x12);
        assert_eq!(crc16(b"123456789"), 0x29B1);
        assert_eq!(crc16(b""), 0xFFFF);
    }
}
