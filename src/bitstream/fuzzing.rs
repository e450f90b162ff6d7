// SPDX-License-Identifier: MIT OR Apache-2.0
//! Properties that hold for any bytes, shared by the fuzz targets and the tests.

use super::rtp::{Depacketizer, Descriptor, Packetizer, Received, RtpPacket};
use super::{Block, Parsed, Probe, StreamReader, StreamWriter, Unit, UnitKind};
use super::{BlockWriter, Limits, SequenceHeader, Timeline, parse_unit, probe, thin};
use super::{MediaIndex, MediaSegmentWriter, read_media_segment};
use bytes::BytesMut;

/// The first byte chooses the block length; the rest is parsed as a block.
pub fn block(data: &[u8]) {
    let Some((&first, data)) = data.split_first() else {
        return;
    };
    let block_length = first % 16 + 1;
    let _ = SequenceHeader::parse(data).map(|header| assert_eq!(SequenceHeader::parse(&header.to_bytes()), Ok(header)));
    let parsed = match Block::parse(data, block_length) {
        Ok(parsed) => parsed,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let header = parsed.header();
    let times = Timeline::new((30000, 1001), block_length).map(|mut timeline| {
        timeline.decode(header.position, header.frames, &header.timing, Some(u64::MAX - 2));
        timeline.decode(header.position, header.frames, &header.timing, None)
    });
    assert!(times.is_ok_and(|times| times.frames().len() == usize::from(header.frames)));

    let whole: Vec<_> = parsed.segments().collect();
    let (usable, fault) = parsed.usable();
    assert!(whole[..usable].iter().all(Result::is_ok));
    assert_eq!(whole.get(usable).and_then(|segment| segment.err()), fault);

    // Writing what was read and reading it again changes nothing.
    let mut again = BytesMut::new();
    let Ok(mut writer) = BlockWriter::begin(header, block_length, &mut again) else {
        panic!("a header that was read cannot be written: {header:?}");
    };
    whole[..usable].iter().flatten().for_each(|segment| writer.segment(segment));
    let again = Block::parse(&again, block_length).map(|block| (block.header().clone(), block.usable().1));
    assert_eq!(again, Ok((header.clone(), None)));

    for layers in 0..whole.len().min(8) + 2 {
        let Ok(thinned) = thin(data, layers) else {
            break;
        };
        assert!(data.starts_with(thinned));
        assert_eq!(thin(thinned, layers), Ok(thinned));
        let Ok(parsed) = Block::parse(thinned, block_length) else { panic!("thinning broke the header") };
        let kept: Vec<_> = parsed.segments().collect();
        assert_eq!(kept[..], whole[..kept.len()]);
        assert!(kept.len() <= layers.max(1));
    }
}

/// The first byte chooses how the rest is split into pieces. The units must be the same as from one piece.
pub fn stream(data: &[u8]) {
    let Some((&first, data)) = data.split_first() else {
        return;
    };
    let whole = read(data, |_| usize::MAX);
    let mut state = u32::from(first) + 1;
    let cut = read(data, |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as usize % (usize::from(first) + 1) + 1
    });
    assert_eq!(whole, cut);
    let (units, rest) = whole;
    // Every byte is accounted for, and no unit holds more than there was.
    let held: u64 = units.iter().map(|unit| unit.payload.len() as u64 + unit.skipped).sum();
    assert!(held + rest <= data.len() as u64);
    assert!(probe(data) > Probe::No || units.is_empty());
    if let Parsed::Unit { payload, total, .. } = parse_unit(data, usize::MAX) {
        assert!(payload.end == total && total <= data.len());
        assert!(
            (0..total.min(600))
                .all(|cut| matches!(parse_unit(&data[..cut], usize::MAX), Parsed::NeedMore(n) if n > cut && n <= total))
        );
    }
    rewrite(&units);
}

/// The bytes as RTP payloads, each with a byte for its length and one for the RTP header before it: what comes out is no more than
/// what went in, and was bounded meanwhile. Then as a block, through packets and back.
pub fn rtp(data: &[u8]) {
    let mut receiver = Depacketizer::new(Limits::default(), data.len().is_multiple_of(2));
    if data.len().is_multiple_of(3) {
        let header = SequenceHeader {
            fingerprint: [0; 8],
            width: 16,
            height: 16,
            framerate: (30, 1),
            pixel_aspect_ratio: (1, 1),
            colorimetry: [0, 2, 2, 2],
            pixel_format: crate::frame::PixelFormat::I420,
            block_length: 2,
            chroma_site: 0,
            layers: 4,
            layer_ratio: 8,
        };
        assert!(receiver.set_header(&header.to_bytes()).is_ok());
    }
    let (mut rest, mut sequence, mut received, mut blocks) = (data, 0u16, 0, 0u64);
    while let [length, bits, after @ ..] = rest {
        let (payload, after) = after.split_at(usize::from(*length).min(after.len()));
        sequence = sequence.wrapping_add(if bits.is_multiple_of(4) { u16::from(bits >> 2) } else { 1 });
        let packet = RtpPacket { sequence, marker: bits % 8 == 7, payload, time: blocks };
        let mut took = |block: Received<u64>| {
            assert!(block.layers >= 1 && block.time <= blocks);
            received += block.data.len();
            blocks += 1;
        };
        if let Err(error) = receiver.push(&packet, &mut took) {
            assert!(!error.to_string().is_empty());
        }
        receiver.key_wanted();
        if bits % 64 == 33 {
            receiver.flush();
        }
        rest = after;
    }
    receiver.finish(&mut |block| {
        received += block.data.len();
        blocks += 1;
    });
    assert!(received <= data.len());
    let stats = receiver.stats();
    assert_eq!(stats.whole + stats.thinned + stats.impaired, blocks);

    let mut pieces = Vec::new();
    let Some((&room, block)) = data.split_first() else { return };
    if Packetizer::new(9).split(block, 0, usize::from(room) + 9, &mut pieces).is_err() {
        return assert!(pieces.is_empty());
    }
    let mut at = 0;
    for piece in &pieces {
        assert_eq!((piece.data.start, piece.data.len() <= usize::from(room) + 1), (at, true));
        let payload = [&piece.descriptor.to_bytes()[..], &block[piece.data.clone()]].concat();
        let read = Descriptor::parse(&payload);
        assert_eq!(read, Ok((piece.descriptor, &block[piece.data.clone()])));
        at = piece.data.end;
    }
    assert!(pieces.last().is_some_and(|piece| piece.last && piece.descriptor.end));
}

fn read(data: &[u8], mut piece: impl FnMut(usize) -> usize) -> (Vec<Unit>, u64) {
    let mut reader = StreamReader::default();
    let mut units = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(piece(rest.len()).min(rest.len()));
        reader.push(now);
        units.extend(std::iter::from_fn(|| reader.next_unit()));
        rest = later;
    }
    reader.end();
    units.extend(std::iter::from_fn(|| reader.next_unit()));
    (units, reader.skipped())
}

/// Blocks that were read can be written, and read again.
fn rewrite(units: &[Unit]) {
    let mut writer = None;
    let mut out = BytesMut::new();
    let mut blocks = Vec::new();
    for unit in units {
        match (unit.kind, &mut writer) {
            (UnitKind::Sequence, _) => {
                writer = SequenceHeader::parse(&unit.payload).and_then(|header| StreamWriter::new(&header)).ok();
            }
            (UnitKind::Block, Some(writer)) => {
                assert_eq!(writer.write(&unit.payload, &mut out), Ok(()));
                blocks.push(unit.payload.clone());
            }
            (UnitKind::Block, None) => panic!("a block without a sequence header"),
        }
    }
    let (again, rest) = read(&out, |_| usize::MAX);
    assert_eq!(rest, 0);
    let again = again.into_iter().filter(|unit| unit.kind == UnitKind::Block).map(|unit| unit.payload);
    assert!(again.eq(blocks));
}

/// Any bytes as a media index, and as a media segment. What was read can be written, and read again.
pub fn media(data: &[u8]) {
    let limits = Limits::default();
    if let Ok(index) = MediaIndex::parse(data, &limits) {
        assert_eq!(MediaIndex::parse(index.to_json().as_bytes(), &limits), Ok(index));
    }
    let mut out = BytesMut::new();
    let Ok(layers) = read_media_segment(data, &limits, &mut out) else {
        return assert!(out.is_empty());
    };
    assert!(layers >= 1 && out.len() <= data.len() + 64);
    let (units, rest) = read(&out, |_| usize::MAX);
    assert_eq!(rest, 0);
    let blocks: Vec<_> = units.iter().filter(|unit| unit.kind == UnitKind::Block).map(|unit| &unit.payload).collect();
    assert!(!blocks.is_empty());
    // Under the first header, from the first key block on.
    let Some(writer) = units.first().and_then(|unit| SequenceHeader::parse(&unit.payload).ok()) else {
        panic!("it does not start with a sequence header")
    };
    let Ok(mut writer) = MediaSegmentWriter::new(&writer) else { panic!("a header that was read cannot be written") };
    let mut pushed = Vec::new();
    for block in blocks {
        match writer.push(block) {
            Ok(()) => pushed.push(block),
            Err(_) => assert!(pushed.is_empty() || units.iter().filter(|unit| unit.kind == UnitKind::Sequence).count() > 1),
        }
    }
    let mut segment = BytesMut::new();
    let Ok(ends) = writer.finish(&mut segment) else { return assert!(pushed.is_empty()) };
    let mut again = BytesMut::new();
    assert_eq!(read_media_segment(&segment, &limits, &mut again), Ok(ends.len()));
    let again = read(&again, |_| usize::MAX).0.into_iter().filter(|unit| unit.kind == UnitKind::Block);
    assert!(again.map(|unit| unit.payload).eq(pushed.into_iter().cloned()));
}
