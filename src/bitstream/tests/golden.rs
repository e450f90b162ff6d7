// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes that pin the format: a change here is a new version of the format. `docs/bitstream.md` explains them.

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn list(values: &[i64]) -> [i64; 16] {
    let mut list = [0; 16];
    list[..values.len()].copy_from_slice(values);
    list
}

const SEQUENCE: &str = "45 54 4f 4b 20 01 02 03 04 05 06 07 08 b0 01 90 01 b0 ea 01 e9 07 0c 0b 02 06 06 06 00 02 01 04 08 3a 43";

#[test]
fn sequence_header() {
    let header = sequence();
    assert_eq!(hex(&header.to_bytes()), SEQUENCE);
}

#[test]
fn block_headers() {
    let explicit =
        |unit, differences: Option<&[i64]>, durations| Some(Explicit { unit, differences: differences.map(list), durations });
    let timing = |base, no_pts, explicit| Timing { base, no_pts, explicit };
    let regular = timing(None, false, None);
    let table = [
        // (position, frames of 2, timing, bytes)
        (0, 2, timing(Some(0), false, None), "01 05 20 00 db"),
        (0, 2, timing(Some(3_600_000_000_000), false, None), "01 05 20 80 c0 e2 85 e3 68 a6"),
        (0, 1, timing(Some(1_000_000_000), false, None), "09 05 20 01 80 94 eb dc 03 8a"),
        (0, 2, timing(None, true, None), "05 05 20 ef"),
        (0, 2, timing(Some(0), false, explicit(TimeUnit::Millisecond, None, Durations::Nominal)), "03 05 20 00 0a 4c"),
        (1, 2, regular, "00 05 01 20 be"),
        (300, 2, regular, "00 05 ac 02 20 96"),
        (u32::MAX, 1, regular, "08 05 ff ff ff ff 0f 20 01 c8"),
        (1, 2, timing(None, true, None), "04 05 01 20 34"),
        (1, 2, timing(None, false, explicit(TimeUnit::Nanosecond, None, Durations::Absent)), "02 05 01 20 10 ed"),
        (
            2,
            2,
            timing(None, false, explicit(TimeUnit::Millisecond, Some(&[1, -1]), Durations::Grid)),
            "0a 05 02 20 02 06 02 01 6b",
        ),
        (
            2,
            2,
            timing(None, false, explicit(TimeUnit::Microsecond, Some(&[0, 64]), Durations::Next(-333))),
            "0a 05 02 20 02 1d 00 80 01 99 05 e9",
        ),
        (
            2,
            2,
            timing(None, true, explicit(TimeUnit::Nanosecond, None, Durations::Each(list(&[5, i64::MIN])))),
            "0e 05 02 20 02 20 0a ff ff ff ff ff ff ff ff ff 01 0c",
        ),
    ];
    let shallow = BlockHeader {
        key: false,
        epoch: 5,
        position: 1,
        left_out: 1,
        frames: 2,
        quantiser: 32,
        base_quantiser: None,
        timing: timing(None, false, None),
    };
    let mut out = BytesMut::new();
    shallow.write(2, &mut out).expect("valid");
    assert_eq!(hex(&out), "10 05 01 20 c8");
    assert_eq!(BlockHeader::parse(&out, 2), Ok((shallow.clone(), out.len())));
    let spread = BlockHeader { base_quantiser: Some(44), ..shallow };
    let mut out = BytesMut::new();
    spread.write(2, &mut out).expect("valid");
    assert_eq!(hex(&out), "90 05 01 20 2c 5d");
    assert_eq!(BlockHeader::parse(&out, 2), Ok((spread.clone(), out.len())));
    assert!(BlockHeader { base_quantiser: Some(31), ..spread }.write(2, &mut out).is_err(), "layer 0 is the coarsest");
    for (position, frames, timing, bytes) in table {
        let header = BlockHeader {
            key: position == 0,
            epoch: 5,
            position,
            left_out: 0,
            frames,
            quantiser: 32,
            base_quantiser: None,
            timing,
        };
        let mut out = BytesMut::new();
        header.write(2, &mut out).expect("valid");
        assert_eq!(hex(&out), bytes, "{header:?}");
        assert_eq!(BlockHeader::parse(&out, 2), Ok((header, out.len())));
    }
}

const BLOCK: &str = "01 00 20 00 ed 09 f4 f5 31 32 33 34 35 36 37 38 39 00 07 51 d2 6c 61 79 65 72 20 32";

#[test]
fn block_and_stream() {
    let timing = Timing { base: Some(0), ..Timing::default() };
    let header =
        BlockHeader { key: true, epoch: 0, position: 0, left_out: 0, frames: 2, quantiser: 32, base_quantiser: None, timing };
    let mut block = BytesMut::new();
    let mut writer = BlockWriter::begin(&header, 2, &mut block).expect("valid");
    for payload in [&b"123456789"[..], b"", b"layer 2", b""] {
        writer.segment(payload);
    }
    assert_eq!(hex(&block), BLOCK);

    let mut stream = BytesMut::new();
    let mut writer = StreamWriter::new(&sequence()).expect("valid");
    writer.write(&block, &mut stream).expect("valid");
    let expected = format!("e7 53 23 e0 {SEQUENCE} e7 ac 1c 1f {BLOCK}");
    assert_eq!(hex(&stream), expected);
}
