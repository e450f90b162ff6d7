// SPDX-License-Identifier: MIT OR Apache-2.0
//! Round trips, the prefix property, damage of every kind, and the bytes that pin the format.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::Error;
use crate::frame::PixelFormat;

mod corpus;
mod golden;
mod media;
mod thinner;

pub(super) fn sequence() -> SequenceHeader {
    SequenceHeader {
        fingerprint: [1, 2, 3, 4, 5, 6, 7, 8],
        width: 176,
        height: 144,
        framerate: (30000, 1001),
        pixel_aspect_ratio: (12, 11),
        colorimetry: [2, 6, 6, 6],
        pixel_format: PixelFormat::I420,
        block_length: 2,
        chroma_site: 1,
        layers: 4,
        layer_ratio: 8,
    }
}

/// A stream of blocks, a key block every three, each with `layers` segments of lengths that repeat `lengths`.
fn blocks(count: u32, layers: usize, lengths: &[usize]) -> Vec<BytesMut> {
    let mut timeline = Timeline::new((30, 1), 2).expect("valid");
    let mut seed = 1u32;
    (0..count)
        .map(|index| {
            let position = index % 3;
            let pts = |frame: u64| u64::from(index) * 70_000_000 + frame * 30_000_000;
            let times = [0, 1].map(|frame| FrameTime { pts: Some(pts(frame)), duration: None });
            let timing = timeline.encode(position, &times).expect("valid");
            let epoch = (index / 3) as u8;
            let header = BlockHeader {
                key: position == 0,
                epoch,
                position,
                left_out: 0,
                frames: 2,
                quantiser: 9,
                base_quantiser: None,
                timing,
            };
            let mut out = BytesMut::new();
            let mut writer = BlockWriter::begin(&header, 2, &mut out).expect("valid");
            for layer in 0..layers {
                let payload: Vec<u8> = (0..lengths[(layer + index as usize) % lengths.len()])
                    .map(|_| {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (seed >> 24) as u8
                    })
                    .collect();
                writer.segment(&payload);
            }
            out
        })
        .collect()
}

fn byte_stream(blocks: &[BytesMut]) -> BytesMut {
    let mut writer = StreamWriter::new(&sequence()).expect("valid");
    let mut out = BytesMut::new();
    for block in blocks {
        writer.write(block, &mut out).expect("valid");
    }
    out
}

fn units(data: &[u8]) -> Vec<Unit> {
    let mut reader = StreamReader::default();
    reader.push(data);
    reader.end();
    std::iter::from_fn(|| reader.next_unit()).collect()
}

fn arbitrary_sequence() -> impl Strategy<Value = SequenceHeader> {
    let number = || 1..=u32::MAX;
    let framerate = prop_oneof![(number(), number()), Just((0, 1))];
    let size = (1..=MAX_DIMENSION, 1..=MAX_DIMENSION);
    let colour = (0u8..=2, any::<[u8; 3]>(), 0u8..=6, any::<bool>());
    let layers = (1u8..=32, 0u8..=16);
    (any::<[u8; 8]>(), size, framerate, (number(), number()), colour, 1u8..=16, layers).prop_map(
        |(fingerprint, size, framerate, pixel_aspect_ratio, (range, [m, t, p], chroma_site, rgb), block_length, layers)| {
            let pixel_format = if rgb { PixelFormat::Rgb } else { PixelFormat::I420 };
            let colorimetry = [range, m, t, p];
            let ((width, height), (layers, layer_ratio)) = (size, layers);
            SequenceHeader {
                fingerprint,
                width,
                height,
                framerate,
                pixel_aspect_ratio,
                colorimetry,
                pixel_format,
                block_length,
                chroma_site,
                layers,
                layer_ratio,
            }
        },
    )
}

proptest! {
    #[test]
    fn sequence_headers_round_trip(header in arbitrary_sequence(), flip in any::<prop::sample::Index>()) {
        let bytes = header.to_bytes();
        prop_assert!(bytes.len() <= MAX_SEQUENCE_BYTES);
        prop_assert_eq!(SequenceHeader::parse(&bytes), Ok(header));
        let mut damaged = bytes.to_vec();
        let bit = flip.index(damaged.len() * 8);
        damaged[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(SequenceHeader::parse(&damaged).is_err());
        for cut in 0..bytes.len() {
            prop_assert!(SequenceHeader::parse(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn every_prefix_is_a_block_of_fewer_layers(lengths in prop::collection::vec(prop_oneof![Just(0usize), 1..300usize], 1..8)) {
        let layers = lengths.len();
        for block in blocks(4, layers, &lengths) {
            let whole = Block::parse(&block, 2).expect("valid");
            let segments: Vec<_> = whole.segments().map(|segment| segment.expect("intact")).collect();
            prop_assert!(segments.last().is_none_or(|last| !last.is_empty()), "trailing empty segments are not written");
            let mut boundaries = vec![whole.header_bytes()];
            for segment in &segments {
                boundaries.push(boundaries[boundaries.len() - 1] + segment_bytes(segment.len()));
            }
            prop_assert_eq!(boundaries[segments.len()], block.len());
            for cut in 0..=block.len() {
                let Ok(part) = Block::parse(&block[..cut], 2) else {
                    prop_assert!(cut < whole.header_bytes());
                    continue;
                };
                // Empty segments count where one that is not follows: before that nothing vouches for them.
                let whole_there = boundaries.iter().filter(|&&end| end <= cut).count() - 1;
                let there = segments[..whole_there].iter().rposition(|segment| !segment.is_empty()).map_or(0, |last| last + 1);
                let fault = (boundaries[whole_there] < cut).then_some(SegmentFault::Truncated);
                prop_assert_eq!(part.usable(), (there, fault));
                let intact: Vec<_> = part.segments().filter_map(Result::ok).collect();
                prop_assert_eq!(&intact[..], &segments[..there]);
                prop_assert_eq!(part.header(), whole.header());
                // What a cut leaves whole stays, but for trailing empty segments.
                match thin(&block[..cut], usize::MAX) {
                    Ok(thinned) => prop_assert_eq!(thinned, &block[..boundaries[there]]),
                    Err(Error::Malformed(_)) => prop_assert!(there == 0 && cut > boundaries[0]),
                    Err(other) => prop_assert!(false, "{other}"),
                }
            }
            for layers in 0..=segments.len() {
                let thinned = thin(&block, layers).expect("valid");
                prop_assert!(block.starts_with(thinned));
                let kept = Block::parse(thinned, 2).expect("valid").usable();
                prop_assert!(kept.0 <= layers.max(1) && kept.1.is_none());
            }
            prop_assert_eq!(thin(&block, segments.len()).expect("valid"), &block[..]);
            prop_assert_eq!(thin(&block, 0).ok(), thin(&block, 1).ok());
        }
    }

    #[test]
    fn damage_is_found_where_it_is(length in 1usize..200, flip in any::<prop::sample::Index>()) {
        for block in blocks(3, 3, &[length, 50, 20]) {
            let whole = Block::parse(&block, 2).expect("valid");
            let bit = flip.index(block.len() * 8);
            let mut damaged = block.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let Ok(parsed) = Block::parse(&damaged, 2) else {
                prop_assert!(bit / 8 < whole.header_bytes());
                continue;
            };
            if bit / 8 < whole.header_bytes() {
                // The checksum is only sure of headers that keep their length.
                prop_assert_ne!(parsed.header_bytes(), whole.header_bytes());
                continue;
            }
            let mut end = whole.header_bytes();
            let hit = whole.segments().take_while(|segment| {
                end += segment_bytes(segment.map_or(0, <[u8]>::len));
                end <= bit / 8
            });
            prop_assert_eq!(parsed.usable().0, hit.count(), "segments before the damage are whole, the one with it is not");
        }
    }

    #[test]
    fn streams_survive_lost_bytes(from in any::<prop::sample::Index>(), len in 1usize..400, fill: Option<u8>) {
        let blocks = blocks(12, 3, &[90, 40, 7]);
        let stream = byte_stream(&blocks);
        let from = from.index(stream.len());
        let to = (from + len).min(stream.len());
        let mut damaged = stream.to_vec();
        match fill {
            Some(byte) => damaged[from..to].fill(byte),
            None => drop(damaged.drain(from..to)),
        }
        let whole = units(&stream);
        let found = units(&damaged);
        let ends = unit_ends(&stream);
        // Units before the damage are there; after it, at most the one that the damaged one swallows is missing.
        let before = ends.iter().take_while(|&&end| end <= from).count();
        for (found, whole) in found.iter().zip(&whole).take(before) {
            prop_assert_eq!(found, whole);
        }
        // A lost sequence header at the start costs all blocks up to the next one.
        let resumes = ends.iter().position(|&end| end > to).map_or(whole.len(), |index| index + 3);
        let resumes = if from < ends[0] { resumes.max(5) } else { resumes };
        let expected = whole.get(resumes..).unwrap_or_default();
        let tail = found.len().checked_sub(expected.len()).map(|at| &found[at..]);
        let payloads = |units: &[Unit]| units.iter().map(|unit| unit.payload.clone()).collect::<Vec<_>>();
        prop_assert_eq!(tail.map(payloads), Some(payloads(expected)));
    }

    #[test]
    fn any_bytes_are_harmless(data in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::block(&data);
        fuzzing::stream(&data);
    }
}

/// Where each unit of an undamaged stream ends.
fn unit_ends(stream: &[u8]) -> Vec<usize> {
    let mut ends = vec![];
    let mut at = 0;
    while let Parsed::Unit { total, .. } = parse_unit(&stream[at..], 1 << 20) {
        at += total;
        ends.push(at);
    }
    assert_eq!(at, stream.len());
    ends
}

#[test]
fn sequence_header_limits() {
    let reject = |change: &dyn Fn(&mut SequenceHeader)| {
        let mut header = sequence();
        change(&mut header);
        let error = SequenceHeader::parse(&header.to_bytes()).expect_err("out of range");
        assert_eq!(header.validate(), Err(error.clone()));
        error
    };
    assert!(matches!(reject(&|header| header.width = 0), Error::Limit(_)));
    assert!(matches!(reject(&|header| header.height = 8193), Error::Limit(_)));
    assert!(matches!(reject(&|header| header.width = u32::MAX), Error::Limit(_)));
    assert!(matches!(reject(&|header| header.block_length = 0), Error::Limit(_)));
    assert!(matches!(reject(&|header| header.block_length = 17), Error::Limit(_)));
    assert!(matches!(reject(&|header| header.framerate = (30, 0)), Error::Malformed(_)));
    assert!(matches!(reject(&|header| header.framerate = (0, 2)), Error::Malformed(_)));
    assert!(matches!(reject(&|header| header.pixel_aspect_ratio = (0, 1)), Error::Malformed(_)));
    assert!(matches!(reject(&|header| header.pixel_aspect_ratio = (1, 0)), Error::Malformed(_)));
    assert!(matches!(reject(&|header| header.colorimetry[0] = 3), Error::Malformed(_)));
    assert!(matches!(reject(&|header| header.chroma_site = 7), Error::Malformed(_)));
    let limits = Limits { max_width: 100, ..Limits::default() };
    assert!(matches!(SequenceHeader::parse_with(&sequence().to_bytes(), &limits), Err(Error::Limit(_))));
}

#[test]
fn pixels_are_limited_and_the_message_names_the_setting() {
    let parse = |width, height, limits: Limits| {
        SequenceHeader::parse_with(&SequenceHeader { width, height, ..sequence() }.to_bytes(), &limits).map(|_| ())
    };
    assert_eq!(parse(4096, 2304, Limits::default()), Ok(()));
    assert_eq!(parse(2304, 4096, Limits::default()), Ok(()));
    for (width, height) in [(4096, 2305), (8192, 8192), (8192, 1153)] {
        let Err(Error::Limit(message)) = parse(width, height, Limits::default()) else { panic!("{width}x{height} accepted") };
        assert!(message.contains("max-pixels") && message.contains(&format!("{width}x{height}")), "{message}");
        assert_eq!(parse(width, height, Limits::with_max_pixels(0)), Ok(()), "all that the format allows");
        assert_eq!(parse(width, height, Limits::with_max_pixels(width * height)), Ok(()));
        assert!(parse(width, height, Limits::with_max_pixels(width * height - 1)).is_err());
    }
    let mut reader = StreamReader::default();
    let mut bytes = BytesMut::new();
    let huge = SequenceHeader { width: 8192, height: 8192, ..sequence() };
    StreamWriter::new(&huge).and_then(|mut w| w.write(&blocks(1, 1, &[3])[0], &mut bytes)).expect("writers write what they have");
    reader.push(&bytes);
    let units: Vec<_> = std::iter::from_fn(|| reader.next_unit()).map(|unit| unit.kind).collect();
    assert_eq!(units, [UnitKind::Sequence], "no blocks under a header that was refused");
}

/// A header's bytes with `change` applied and the checksum made right again.
fn resealed(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = sequence().to_bytes().to_vec();
    bytes.truncate(bytes.len() - 2);
    change(&mut bytes);
    let check = crc16(&bytes);
    bytes.extend(check.to_le_bytes());
    bytes
}

#[test]
fn sequence_header_versions() {
    let parse = |change: &dyn Fn(&mut Vec<u8>)| SequenceHeader::parse(&resealed(change));
    assert!(matches!(parse(&|bytes| bytes[4] = 0x30), Err(Error::Unsupported(m)) if m.contains("newer")), "major version");
    let old = parse(&|bytes| bytes[4] = 0x10);
    assert!(matches!(&old, Err(Error::Unsupported(m)) if m.contains("version 1.0") && m.contains("encode")), "{old:?}");
    assert!(matches!(parse(&|bytes| bytes.push(0)), Err(Error::Malformed(_))), "trailing byte in this version");
    let newer = |bytes: &mut Vec<u8>| {
        bytes[4] = 0x21;
        bytes.extend([9, 9, 9]);
    };
    assert_eq!(parse(&newer), Ok(sequence()), "fields of a newer minor version are skipped");
    assert!(matches!(parse(&|bytes| bytes.resize(126, 0)), Err(Error::Limit(_))));
    assert!(matches!(parse(&|bytes| bytes[0] = b'X'), Err(Error::Malformed(_))));
    let format = sequence().to_bytes().len() - 7;
    assert!(matches!(parse(&|bytes| bytes[format] = 2), Err(Error::Unsupported(_))), "pixel format");
}

#[test]
fn probing() {
    let stream = byte_stream(&blocks(6, 2, &[60]));
    assert_eq!(probe(&stream), Probe::Yes);
    assert_eq!(probe(&stream[..64]), Probe::Yes);
    assert_eq!(&stream[4..8], b"ETOK");
    assert_eq!(probe(&[]), Probe::No);
    assert_eq!(probe(&stream[..1]), Probe::Maybe);
    assert_eq!(probe(&stream[..20]), Probe::Maybe);
    assert_eq!(probe(&stream[50..]), Probe::Maybe, "joined midway: a sequence header stands further on");
    assert_eq!(probe(&stream[50..200]), Probe::No);
    assert_eq!(probe(b"RIFF\0\0\0\0AVI LIST"), Probe::No);
    let mut damaged = stream.to_vec();
    damaged[10] ^= 1;
    damaged.truncate(60);
    assert_eq!(probe(&damaged), Probe::No);
}

#[test]
fn memory_stays_bounded() {
    // A unit that claims more than the picture size allows is no unit: nothing waits for it.
    let mut stream = byte_stream(&blocks(1, 1, &[60])).to_vec();
    let most = sequence().block_bytes(&Limits::default());
    let mut huge = BytesMut::new();
    let block = blocks(1, 1, &[most]);
    unit::put_unit(UnitKind::Block, &block[0], &mut huge);
    stream.extend(&huge[..1000]);
    let mut reader = StreamReader::default();
    reader.push(&stream);
    assert_eq!(std::iter::from_fn(|| reader.next_unit()).count(), 2);
    assert_eq!(reader.skipped(), 1000);
    let mut writer = StreamWriter::new(&sequence()).expect("valid");
    assert!(matches!(writer.write(&block[0], &mut huge), Err(Error::Limit(_))));
    // Before a sequence header no block is waited for.
    let mut reader = StreamReader::default();
    reader.push(&byte_stream(&blocks(1, 1, &[60]))[45..60]);
    assert!(reader.next_unit().is_none());
}

#[test]
fn a_cut_file_still_gives_its_last_block() {
    let blocks = blocks(2, 3, &[60, 50, 40]);
    let stream = byte_stream(&blocks);
    let found = units(&stream[..stream.len() - 60]);
    let last = found.last().expect("units");
    assert_eq!(found.len(), 3);
    assert_eq!(Block::parse(&last.payload, 2).map(|block| block.usable()), Ok((2, Some(SegmentFault::Truncated))));
}

#[test]
fn a_length_that_became_zero_is_no_empty_segment() {
    for length in [1, 2, 64] {
        let block = &blocks(1, 3, &[50, length, 20])[0];
        let whole = Block::parse(block, 2).expect("valid");
        let mut damaged = block.to_vec();
        damaged[whole.header_bytes() + segment_bytes(50)] = 0;
        let parsed = Block::parse(&damaged, 2).expect("an undamaged header");
        assert_eq!(parsed.usable().0, 1);
        assert!(parsed.usable().1.is_some());
    }
}

#[test]
fn joined_midway() {
    let blocks = blocks(9, 2, &[60, 30]);
    let stream = byte_stream(&blocks);
    let ends = unit_ends(&stream);
    let found = units(&stream[ends[1] + 7..]);
    assert_eq!(found[0].kind, UnitKind::Sequence);
    assert_eq!(found[0].skipped as usize, ends[3] - ends[1] - 7);
    assert_eq!(found[1].payload, blocks[3]);
    assert_eq!(found.len(), 8);
}
