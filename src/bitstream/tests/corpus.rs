// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fuzz targets' entry functions on a seeded corpus, so that they run without a fuzzer too.

use super::crc::crc8;
use super::*;

/// xorshift64*: the same corpus on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 32) as usize % limit.max(1)
    }
}

/// Damages `data` in the ways that networks, disks and attackers do; may make checksums right again.
fn mutate(data: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let (at, len) = (random.below(data.len()), random.below(64));
        let to = (at + len).min(data.len());
        match random.below(8) {
            0 if !data.is_empty() => data[at] ^= 1 << random.below(8),
            1 if !data.is_empty() => data[at] = [0, 1, 0x7F, 0x80, 0xFF, 0xE7, 0x53, 0xAC][random.below(8)],
            2 => data.truncate(at),
            3 => drop(data.drain(at..to)),
            4 => drop(data.splice(at..at, (0..len).map(|_| random.next() as u8).collect::<Vec<_>>())),
            5 => drop(data.splice(at..at, data[at..to].to_vec())),
            6 => data[at..to].reverse(),
            _ if len > 0 && to < data.len() => data[to] = crc8(&data[at..to]),
            _ => {}
        }
    }
}

#[test]
fn packets_from_the_corpus() {
    let mut random = Random(0x7777_1234_9ABC_DEF1);
    let seeds = blocks(6, 3, &[3, 0, 40, 90]);
    let mut pieces = Vec::new();
    for round in 0..4000 {
        let mut packetizer = rtp::Packetizer::new(random.next() as u16);
        let mut data = Vec::new();
        for block in &seeds[random.below(3)..] {
            packetizer.split(block, 0, 16 + random.below(200), &mut pieces).expect("a valid block");
            for piece in &pieces {
                let payload = [&piece.descriptor.to_bytes()[..], &block[piece.data.clone()]].concat();
                data.extend([payload.len() as u8, if piece.last { 7 } else { 1 }]);
                data.extend(payload);
            }
        }
        if round > 0 {
            mutate(&mut data, &mut random);
        }
        fuzzing::rtp(&data);
        let mut block = vec![random.next() as u8];
        block.extend(&seeds[round % seeds.len()]);
        mutate(&mut block, &mut random);
        fuzzing::rtp(&block);
    }
}

#[test]
fn blocks_from_the_corpus() {
    let seeds = blocks(6, 4, &[3, 0, 40, 200]);
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    for round in 0..4000 {
        let mut data = vec![random.next() as u8];
        data.extend(&seeds[round % seeds.len()]);
        mutate(&mut data, &mut random);
        fuzzing::block(&data);
    }
    // Headers with a right checksum over random fields reach deeper.
    for _ in 0..20_000 {
        let len = 3 + random.below(40);
        let mut data: Vec<u8> = (0..=len).map(|_| random.next() as u8 & [0x0F, 0x7F, 0xFF, 0x01][random.below(4)]).collect();
        let at = 1 + random.below(len);
        data[at] = crc8(&data[1..at]);
        fuzzing::block(&data);
    }
}

#[test]
fn streams_from_the_corpus() {
    let seed = byte_stream(&blocks(7, 3, &[3, 0, 60]));
    let mut random = Random(0xFEDC_BA98_7654_3211);
    fuzzing::stream(&[&[9], &seed[..]].concat());
    for _ in 0..3000 {
        let mut data = vec![random.next() as u8];
        data.extend(&seed);
        mutate(&mut data, &mut random);
        fuzzing::stream(&data);
    }
    for round in 0..2000 {
        // Nothing but what looks like the start of units.
        let data: Vec<u8> = (0..round % 300).map(|_| [0xE7, 0x53, 0xAC, 0x05, 0x80, 0x00][random.below(6)]).collect();
        fuzzing::stream(&data);
    }
}

#[test]
fn golden_streams_whole_and_damaged() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let paths = std::fs::read_dir(folder).expect("the golden streams").map(|f| f.expect("a file").path());
    let mut paths: Vec<_> = paths.filter(|p| p.extension().is_some_and(|e| e == "etok")).collect();
    paths.sort();
    assert!(paths.len() > 10);
    let mut random = Random(0x0F1E_2D3C_4B5A_6978);
    for path in paths {
        let seed = std::fs::read(path).expect("readable");
        for round in 0..40 {
            let mut data = vec![random.next() as u8];
            data.extend(&seed);
            if round > 0 {
                mutate(&mut data, &mut random);
            }
            fuzzing::stream(&data);
        }
    }
}

#[test]
fn media_segments_from_the_corpus() {
    let mut random = Random(0x0F1E_2D3C_4B5A_6978);
    let mut seeds = Vec::new();
    for layers in 1..4 {
        let mut writer = MediaSegmentWriter::new(&sequence()).expect("valid");
        blocks(5, layers, &[30, 0, 90]).iter().for_each(|block| writer.push(block).expect("fits"));
        let mut out = BytesMut::new();
        writer.finish(&mut out).expect("blocks");
        seeds.push(out.to_vec());
    }
    let mut index = MediaIndex::new(64, 64, (0, 1));
    index.segments.push(MediaSegmentEntry { uri: "0".into(), duration_ns: 7, layer_ends: vec![9, 10] });
    seeds.push(index.to_json().into_bytes());
    for round in 0..8000 {
        let mut data = seeds[round % seeds.len()].clone();
        mutate(&mut data, &mut random);
        fuzzing::media(&data);
    }
}
