// SPDX-License-Identifier: MIT OR Apache-2.0
//! Through packets and back: whole, thinned on the way, and with losses. The bytes of `docs/rtp.md`.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::bitstream::tests::sequence;
use crate::bitstream::{BlockHeader, BlockWriter, Limits, Timing, thin};

const ROOM: usize = 60;

/// Blocks with segments of these lengths; a key block every `group`.
fn blocks(count: u32, group: u32, lengths: &[usize]) -> Vec<BytesMut> {
    (0..count)
        .map(|n| {
            let position = n % group;
            let timing = Timing { base: (position == 0).then_some(u64::from(n)), ..Timing::default() };
            let epoch = (n / group) as u8;
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
            for (layer, &length) in lengths.iter().enumerate() {
                writer.segment(&(0..length).map(|i| (i + layer + n as usize) as u8).collect::<Vec<_>>());
            }
            out
        })
        .collect()
}

#[derive(Debug, Clone)]
struct Sent {
    descriptor: Descriptor,
    marker: bool,
    payload: Vec<u8>,
    time: usize,
}

fn send(blocks: &[BytesMut], header: &[u8], room: usize) -> Vec<Sent> {
    let mut packetizer = Packetizer::new(65_530);
    let (mut pieces, mut sent) = (Vec::new(), Vec::new());
    for (time, block) in blocks.iter().enumerate() {
        packetizer.split(block, header.len(), room, &mut pieces).expect("a valid block");
        for Piece { descriptor, data, last } in pieces.drain(..) {
            let mut payload = descriptor.to_bytes().to_vec();
            if descriptor.header {
                payload.push(header.len() as u8);
                payload.extend(header);
            }
            payload.extend(&block[data]);
            assert!(payload.len() <= room);
            sent.push(Sent { descriptor, marker: last, payload, time });
        }
    }
    sent
}

/// What comes out of packets with these sequence numbers.
fn receive_with(receiver: &mut Depacketizer<usize>, packets: impl IntoIterator<Item = (u16, Sent)>) -> Vec<Received<usize>> {
    let mut out = Vec::new();
    for (sequence, Sent { marker, payload, time, .. }) in packets {
        let packet = RtpPacket { sequence, marker, payload: &payload, time };
        receiver.push(&packet, &mut |block| out.push(block)).expect("a good packet");
    }
    receiver.finish(&mut |block| out.push(block));
    out
}

fn numbered(packets: Vec<Sent>) -> Vec<(u16, Sent)> {
    packets.into_iter().enumerate().map(|(n, p)| ((n as u16).wrapping_sub(4), p)).collect()
}

fn receiver() -> Depacketizer<usize> {
    let mut receiver = Depacketizer::new(Limits::default(), true);
    receiver.set_header(&sequence().to_bytes()).expect("valid");
    receiver
}

#[test]
fn blocks_come_out_as_they_went_in() {
    for lengths in [&[200, 300, 10][..], &[0, 5], &[5, 0, 0, 7], &[], &[53], &[1; 32]] {
        let blocks = blocks(9, 4, lengths);
        let mut receiver = receiver();
        let got = receive_with(&mut receiver, numbered(send(&blocks, &[], ROOM)));
        assert!(got.iter().map(|b| &b.data[..]).eq(blocks.iter().map(|b| &b[..])), "{lengths:?}");
        assert!(got.iter().enumerate().all(|(n, b)| (b.time, b.key, b.discontinuity) == (n, n % 4 == 0, false)));
        assert_eq!(receiver.stats(), ReceiveStats { whole: 9, ..Default::default() });
        assert_eq!(receiver.key_wanted(), None);
    }
}

#[test]
fn a_middlebox_that_drops_layers_thins() {
    let lengths = [200, 0, 300, 70];
    let blocks = blocks(12, 4, &lengths);
    for keep in 1..=4 {
        // It rewrites sequence numbers and nothing else, so the marker goes with the last layer.
        let kept: Vec<_> = send(&blocks, &[], ROOM).into_iter().filter(|p| p.descriptor.layer < keep).collect();
        let mut receiver = receiver();
        let got = receive_with(&mut receiver, numbered(kept));
        for (got, block) in got.iter().zip(&blocks) {
            let thin = thin(block, keep.into()).expect("valid");
            // One empty layer at the end that thinning leaves out.
            assert!(got.data.starts_with(thin) && got.data[thin.len()..].iter().all(|b| *b == 0), "{keep}");
            assert_eq!(got.layers, keep);
        }
        let (whole, thinned) = if keep == 4 { (12, 0) } else { (0, 12) };
        assert_eq!(receiver.stats(), ReceiveStats { whole, thinned, ..Default::default() });
    }
}

#[test]
fn thinned_blocks_come_as_soon_as_they_are_complete_once_that_is_known() {
    let blocks = blocks(12, 4, &[40, 40, 40]);
    // Two layers for two groups, then all.
    let packets: Vec<_> = send(&blocks, &[], ROOM).into_iter().filter(|p| p.descriptor.layer < 2 || p.time >= 4).collect();
    let mut receiver = receiver();
    let mut out = Vec::new();
    let mut late = Vec::new();
    for (sequence, p) in numbered(packets) {
        let packet = RtpPacket { sequence, marker: p.marker, payload: &p.payload, time: p.time };
        receiver.push(&packet, &mut |block| out.push((block.time, block.layers, p.time - block.time))).expect("good");
    }
    receiver.finish(&mut |block| late.push(block));
    let expected = (0..12).map(|n| (n, if n < 8 { 2 } else { 3 }, usize::from(n == 0)));
    assert_eq!(out, expected.collect::<Vec<_>>(), "more layers are taken from the second key block on that has them");
    assert!(late.is_empty());
}

#[test]
fn a_lost_upper_layer_costs_that_layer_only() {
    let blocks = blocks(8, 8, &[40, 100, 100]);
    for lost in 0..10 {
        let packets = numbered(send(&blocks, &[], ROOM));
        let at = packets.iter().filter(|(_, p)| p.descriptor.layer > 0).nth(lost).expect("one of many").clone();
        let mut receiver = receiver();
        let got = receive_with(&mut receiver, packets.into_iter().filter(|(sequence, _)| *sequence != at.0));
        assert_eq!(got.len(), 8);
        for (n, (got, block)) in got.iter().zip(&blocks).enumerate() {
            let layers = if n == at.1.time { at.1.descriptor.layer } else { 3 };
            assert_eq!(got.data, thin(block, layers.into()).expect("valid"));
            assert!(!got.discontinuity);
        }
        assert_eq!(receiver.stats(), ReceiveStats { whole: 7, impaired: 1, ..Default::default() });
        assert_eq!(receiver.key_wanted(), None);
    }
}

#[test]
fn a_lost_base_layer_ends_the_group() {
    let blocks = blocks(12, 4, &[100, 30]);
    for wait in [true, false] {
        let packets = numbered(send(&blocks, &[], ROOM));
        let base = |(_, p): &&(u16, Sent)| p.time == 5 && p.descriptor.layer == 0;
        let lost = packets.iter().find(base).expect("one").0;
        let mut receiver = receiver();
        receiver.set_waits_for_key(wait);
        let got = receive_with(&mut receiver, packets.into_iter().filter(|(sequence, _)| *sequence != lost));
        let times: Vec<_> = got.iter().map(|b| (b.time, b.discontinuity)).collect();
        let plain = |n| (n, false);
        let (expected, undecodable) = if wait {
            ([0, 1, 2, 3, 4].map(plain).into_iter().chain([(8, true)]).chain([9, 10, 11].map(plain)).collect::<Vec<_>>(), 2)
        } else {
            let after = [(6, true), (7, true), (8, false), (9, false), (10, false), (11, false)];
            ([0, 1, 2, 3, 4].map(plain).into_iter().chain(after).collect(), 0)
        };
        assert_eq!(times, expected);
        let stats = receiver.stats();
        assert_eq!((stats.lost, stats.undecodable), (1, undecodable));
    }
}

#[test]
fn key_blocks_are_wanted_after_a_loss_and_again_when_one_is_lost() {
    let blocks = blocks(12, 4, &[30]);
    let packets = numbered(send(&blocks, &[], ROOM));
    let mut receiver = receiver();
    let mut wanted = Vec::new();
    // The second block and the key block after it.
    for (sequence, p) in packets.into_iter().filter(|(_, p)| p.time != 1 && p.time != 4) {
        let packet = RtpPacket { sequence, marker: p.marker, payload: &p.payload, time: p.time };
        receiver.push(&packet, &mut |_| {}).expect("good");
        wanted.extend(receiver.key_wanted().map(|epoch| (p.time, epoch)));
    }
    assert_eq!(wanted, [(2, 0), (3, 0), (5, 1), (6, 1), (7, 1)]);
    let stats = ReceiveStats { whole: 5, lost: 2, undecodable: 5, ..Default::default() };
    assert_eq!(receiver.stats(), stats);
}

#[test]
fn a_receiver_joins_at_a_key_block_with_a_header() {
    let blocks = blocks(12, 4, &[90, 10]);
    let header = sequence().to_bytes();
    let from = |time| numbered(send(&blocks, &header, 80)).into_iter().filter(move |(_, p)| p.time >= time);
    let mut receiver = Depacketizer::new(Limits::default(), true);
    let got = receive_with(&mut receiver, from(2));
    assert_eq!(got.iter().map(|b| b.time).collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9, 10, 11]);
    let headers: Vec<_> = got.iter().map(|b| b.header.clone()).collect();
    assert_eq!(headers[0], Some(sequence()));
    assert!(headers[1..].iter().all(Option::is_none), "one that does not change is not repeated");
    // Without headers nothing can be used, and nothing is kept.
    let mut receiver = Depacketizer::new(Limits::default(), true);
    assert!(receive_with(&mut receiver, numbered(send(&blocks, &[], ROOM))).is_empty());
    assert_eq!(receiver.stats().lost, 12);
}

#[test]
fn the_first_header_is_there_before_its_key_block_is_whole() {
    let header = sequence().to_bytes();
    let early = |receiver: &mut Depacketizer<usize>, lengths: &[usize]| {
        let mut early = Vec::new();
        for (sequence, Sent { marker, payload, time, .. }) in numbered(send(&blocks(8, 2, lengths), &header, 80)) {
            let (packet, mut whole) = (RtpPacket { sequence, marker, payload: &payload, time }, false);
            receiver.push(&packet, &mut |_| whole = true).expect("a good packet");
            if let Some(header) = receiver.early_header() {
                assert_eq!((header, whole), (&self::sequence(), false));
                early.push(sequence.wrapping_add(4));
            }
        }
        early
    };
    let new = || Depacketizer::new(Limits::default(), true);
    assert_eq!(early(&mut new(), &[90, 10]), [0], "once, with the first packet");
    assert_eq!(early(&mut new(), &[20]), [0; 0], "the block with it is whole at once");
    assert_eq!(early(&mut receiver(), &[90, 10]), [0; 0], "it is known already");
}

#[test]
fn a_header_whose_key_block_is_lost_holds_for_the_next() {
    let blocks = blocks(8, 4, &[90]);
    let header = sequence().to_bytes();
    let mut packets = numbered(send(&blocks, &header, 80));
    packets.retain(|(_, p)| p.time != 0 || p.descriptor.fragment != 1);
    for (_, p) in packets.iter_mut().filter(|(_, p)| p.time == 4 && p.descriptor.header) {
        p.payload.drain(DESCRIPTOR_BYTES..DESCRIPTOR_BYTES + 1 + header.len());
        p.payload[0] &= !(1 << 3);
    }
    let mut receiver = Depacketizer::new(Limits::default(), true);
    let got = receive_with(&mut receiver, packets);
    assert_eq!(
        got.iter().map(|b| (b.time, b.header.is_some())).collect::<Vec<_>>(),
        [(4, true), (5, false), (6, false), (7, false)]
    );
}

#[test]
fn aggregated_units_are_blocks_of_their_own() {
    let blocks = blocks(3, 4, &[20, 7]);
    let sent = send(&blocks, &[], ROOM);
    let first = Descriptor { aggregate: true, ..sent[0].descriptor };
    let mut payload = first.to_bytes().to_vec();
    for p in &sent {
        let (descriptor, data) = Descriptor::parse(&p.payload).expect("sent");
        payload.extend(put_unit(&descriptor, data.len(), p.time as u16 * 6000).expect("short"));
        payload.extend(data);
    }
    let mut receiver = receiver();
    let packet = Sent { payload, marker: true, ..sent[0].clone() };
    let got = receive_with(&mut receiver, [(1, packet.clone())]);
    assert!(got.iter().map(|b| &b.data[..]).eq(blocks.iter().map(|b| &b[..])));
    assert_eq!(got.iter().map(|b| (b.time, b.offset)).collect::<Vec<_>>(), [(0, 0), (0, 6000), (0, 12000)]);
    for cut in DESCRIPTOR_BYTES..packet.payload.len() {
        let whole = receiver.stats().refused_packets;
        let packet = RtpPacket { sequence: 1, marker: true, payload: &packet.payload[..cut], time: 0 };
        let result = receiver.push(&packet, &mut |_| {});
        assert_eq!(receiver.stats().refused_packets - whole, u64::from(result.is_err()));
        receiver.flush();
    }
}

#[test]
fn malformed_packets_are_refused() {
    let good = Descriptor {
        key: true,
        end: true,
        header: false,
        aggregate: false,
        epoch: 0,
        block: 0,
        layer: 0,
        layers: 1,
        fragment: 0,
    };
    let with = |change: &dyn Fn(&mut [u8; 8])| {
        let mut bytes = good.to_bytes();
        change(&mut bytes);
        Descriptor::parse(&bytes).is_ok()
    };
    assert!(with(&|_| {}) && with(&|b| b[0] |= 3), "reserved bits are ignored");
    assert!(!with(&|b| b[0] &= 0x3F) && !with(&|b| b[0] |= 0x80), "version");
    assert!(!with(&|b| b[5] = 0) && !with(&|b| b[4] = 1) && !with(&|b| b[5] = 33));
    assert!(with(&|b| (b[4], b[5]) = (31, 32)));
    assert!(!with(&|b| (b[0], b[7]) = (b[0] | 8, 1)), "a header belongs to the first packet");
    for length in 0..DESCRIPTOR_BYTES {
        assert!(Descriptor::parse(&good.to_bytes()[..length]).is_err());
    }
    let header = Descriptor { header: true, ..good };
    for rest in [&[][..], &[5, 1, 2], &[128; 200]] {
        assert!(Payload::new(header, rest).is_err());
    }
}

#[test]
fn memory_is_bounded_by_the_header() {
    let mut receiver = receiver();
    let most = sequence().block_bytes(&Limits::default());
    let payload = [&[0x60, 0, 0, 0, 0, 1, 0, 0][..], &[7; 1000]].concat();
    let mut refused = 0;
    for n in 0..u16::MAX {
        let mut payload = payload.clone();
        payload[6..8].copy_from_slice(&n.to_be_bytes());
        let packet = RtpPacket { sequence: n, marker: false, payload: &payload, time: 0 };
        refused += usize::from(receiver.push(&packet, &mut |_| panic!("it never ends")).is_err());
    }
    assert_eq!(refused, 1, "the rest is passed over");
    assert!(most < 1000 * 65_535, "the test goes beyond");
    assert_eq!(receiver.stats().refused_packets, 1);
}

/// Bytes in the hexadecimal lines of `docs/rtp.md` that follow the line with `title`.
fn example(title: &str) -> Vec<u8> {
    let text = include_str!("../../../docs/rtp.md");
    let mut lines = text.lines().skip_while(|line| !line.contains(title)).skip(1).skip_while(|line| !line.starts_with("    "));
    let bytes = |line: &str| -> Vec<u8> {
        let digits = line.split("  ").find(|part| !part.is_empty()).unwrap_or_default();
        digits.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect()
    };
    std::iter::from_fn(|| lines.next().filter(|line| line.starts_with("    "))).flat_map(bytes).collect()
}

#[test]
fn examples_of_the_document_are_true() {
    let header = sequence().to_bytes();
    let timing = Timing { base: Some(0), ..Timing::default() };
    let block_header =
        BlockHeader { key: true, epoch: 5, position: 0, left_out: 0, frames: 2, quantiser: 32, base_quantiser: None, timing };
    let mut block = BytesMut::new();
    let mut writer = BlockWriter::begin(&block_header, 2, &mut block).expect("valid");
    writer.segment(b"123456789");
    writer.segment(b"layer 1");
    let mut pieces = Vec::new();
    let mut packetizer = Packetizer::new(300);
    packetizer.split(&block, header.len(), 62, &mut pieces).expect("valid");
    let payload = |piece: &Piece| {
        let mut bytes = piece.descriptor.to_bytes().to_vec();
        if piece.descriptor.header {
            bytes.push(header.len() as u8);
            bytes.extend(&header);
        }
        bytes.extend(&block[piece.data.clone()]);
        bytes
    };
    assert_eq!(pieces.len(), 2);
    assert_eq!(payload(&pieces[0]), example("Example 1"));
    assert_eq!(payload(&pieces[1]), example("Example 2"));
    let mut packetizer = Packetizer::new(300);
    packetizer.split(&block, 0, 20, &mut pieces).expect("valid");
    let fragments: Vec<u8> = pieces[..2].iter().flat_map(payload).collect();
    assert_eq!(fragments, example("Example 3"));
    let mut aggregate = Descriptor { aggregate: true, ..pieces[0].descriptor };
    aggregate.end = true;
    let mut packetizer = Packetizer::new(300);
    packetizer.split(&block, 0, 60, &mut pieces).expect("valid");
    let mut bytes = aggregate.to_bytes().to_vec();
    for piece in &pieces {
        bytes.extend(put_unit(&piece.descriptor, piece.data.len(), 0).expect("short"));
        bytes.extend(&block[piece.data.clone()]);
    }
    assert_eq!(bytes, example("Example 4"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Whatever is lost or dropped, what comes out is a prefix of what was sent, in order, decodable, and counted.
    #[test]
    fn any_loss(
        lengths in proptest::collection::vec(0usize..150, 0..5),
        group in 1u32..6,
        room in 48usize..200,
        keep in 1u8..5,
        lost in proptest::collection::vec(0usize..100, 0..12),
    ) {
        let blocks = blocks(16, group, &lengths);
        let header = sequence().to_bytes();
        let forwarded: Vec<_> = send(&blocks, &header, room).into_iter().filter(|p| p.descriptor.layer < keep).collect();
        let packets = numbered(forwarded).into_iter().enumerate().filter(|(n, _)| !lost.contains(n)).map(|(_, p)| p);
        let mut receiver = receiver();
        let got = receive_with(&mut receiver, packets);
        let mut last: Option<usize> = None;
        for block in &got {
            let sent = &blocks[block.time];
            let thin = thin(sent, block.layers.into()).expect("valid");
            prop_assert!(block.data.starts_with(thin) && block.data[thin.len()..].iter().all(|b| *b == 0));
            prop_assert!(block.layers <= keep);
            let after = last.map_or(block.time == 0, |last| block.time == last + 1);
            prop_assert!(after || block.key, "a block without the one it depends on");
            prop_assert_eq!(block.discontinuity && last.is_some(), !after && last.is_some());
            last = Some(block.time);
        }
        let stats = receiver.stats();
        prop_assert_eq!(stats.whole + stats.thinned + stats.impaired, got.len() as u64);
        prop_assert!(got.len() as u64 + stats.lost + stats.undecodable <= 16);
        if lost.is_empty() {
            prop_assert_eq!(got.len(), 16);
        }
    }
}
