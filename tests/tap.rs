// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tokens out of a stream and back into it.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Rgb, tiny};
use elastictok::Error;
use elastictok::bitstream::{SequenceHeader, thin};
use elastictok::bundle::Bundle;
use elastictok::codec::{
    Encoder, EncoderConfig, FrameTime, LiveSettings, Packet, SearchMethod, TokenReader, TokenShape, TokenValues, TokenWriter,
};
use elastictok::frame::{PlanesRef, SourceFormat};

const SIZE: Rgb = Rgb { width: 70, height: 45 };

/// A stream with counts of all sizes, several key blocks, irregular times and a shorter last block.
fn stream(bundle: &Arc<Bundle>) -> (SequenceHeader, Vec<Packet>) {
    let live = LiveSettings { target_mse: 0.01, ..Default::default() };
    let config = SIZE.config(bundle, SearchMethod::Binary, live);
    let mut e = Encoder::new(EncoderConfig { key_int_max: 12, ..config }).unwrap();
    let mut packets = Vec::new();
    for n in 0..30usize {
        let frame = SIZE.frame(n);
        let picture = PlanesRef { format: SourceFormat::Rgb, planes: [&frame, &[], &[]], strides: [SIZE.width * 3, 0, 0] };
        let pts = n as u64 * 40_000_000 + if n > 10 { (n as u64 * 7919) % 1_000_000 } else { 0 };
        packets.extend(e.push(&picture, FrameTime { pts: Some(pts), duration: None }).unwrap());
        let target_mse = [0.01, 0.0005, 0.05, 4.0][n / 4 % 4];
        e.set_live(LiveSettings { target_mse, ..live }).unwrap();
    }
    packets.extend(e.drain().unwrap());
    (e.sequence_header().clone(), packets)
}

#[test]
fn blocks_come_back_byte_for_byte() {
    for (name, numbers) in [("fsq", 1), ("vae", 3)] {
        let bundle = Arc::new(tiny(name));
        let (header, packets) = stream(&bundle);
        let mut counts = std::collections::BTreeSet::new();
        for layers in 1..=3 {
            let (mut reader, mut writer) =
                (TokenReader::new(&bundle, &header).unwrap(), TokenWriter::new(&bundle, &header).unwrap());
            assert_eq!(reader.shape(), TokenShape { cells_y: 3, cells_x: 5, tokens: 16, numbers });
            let mut n = 0;
            for packet in &packets {
                let data = thin(&packet.data, layers).unwrap();
                let block = reader.read(data, None).unwrap();
                assert_eq!((block.header.key, block.times.len()), (packet.key, packet.frames as usize));
                for (i, time) in block.times.iter().enumerate() {
                    let at = (n + i) as u64;
                    assert_eq!(time.pts, Some(at * 40_000_000 + if at > 10 { (at * 7919) % 1_000_000 } else { 0 }));
                }
                n += block.times.len();
                counts.extend(block.counts.iter().copied());
                assert_eq!(writer.write(&block).unwrap(), data, "{name}, {layers} layers");
            }
        }
        assert!(counts.len() > 8, "{counts:?}");
    }
}

#[test]
fn changed_tokens_make_a_stream_of_those() {
    let bundle = Arc::new(tiny("fsq"));
    let (header, packets) = stream(&bundle);
    let (mut reader, mut writer) = (TokenReader::new(&bundle, &header).unwrap(), TokenWriter::new(&bundle, &header).unwrap());
    let (mut a, mut b) = (SIZE.decoder(&bundle, &header, Some(1)), SIZE.decoder(&bundle, &header, None));
    for packet in &packets {
        let mut block = reader.read(&packet.data, None).unwrap();
        // What a receiver of the first layer has: four tokens at most.
        block.counts.iter_mut().for_each(|n| *n = (*n).min(4));
        let written = writer.write(&block).unwrap();
        assert_eq!(written, thin(&packet.data, 1).unwrap());
        assert_eq!(SIZE.decode(&mut a, &packet.data), SIZE.decode(&mut b, &written));
        // Other tokens are other pictures.
        let TokenValues::Indices(indices) = &mut block.tokens else { panic!("fsq") };
        indices.iter_mut().for_each(|i| *i = (*i + 9000) % (63 * 63 * 63));
        let changed = writer.write(&block).unwrap();
        let read = reader.read(&changed, None).unwrap();
        assert_eq!(read.counts, block.counts);
        assert_ne!(changed, written);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let bundle = Arc::new(tiny("fsq"));
    let (header, packets) = stream(&bundle);
    let (mut reader, mut writer) = (TokenReader::new(&bundle, &header).unwrap(), TokenWriter::new(&bundle, &header).unwrap());
    let good = reader.read(&packets[0].data, None).unwrap();
    let mut bad = good.clone();
    bad.counts[3] = 17;
    assert!(matches!(writer.write(&bad), Err(Error::Settings(_))));
    bad = good.clone();
    bad.tokens = TokenValues::Indices(vec![63 * 63 * 63; 240]);
    assert!(matches!(writer.write(&bad), Err(Error::Model(_))));
    for other in [
        TokenValues::Means(vec![0.0; 240]),
        TokenValues::Nested { indices: vec![0; 240], layer_counts: Vec::new(), transform_sizes: Vec::new(), motion: Vec::new() },
    ] {
        bad.tokens = other;
        assert!(writer.write(&bad).is_err());
    }
    assert_eq!(writer.write(&good).unwrap(), packets[0].data, "and then goes on");
    let mut broken = packets[0].data.to_vec();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    assert!(matches!(reader.read(&broken, None), Err(Error::Malformed(_))));
    assert!(matches!(TokenReader::new(&tiny("vae"), &header), Err(Error::Model(_))));
}

/// A nested stream of a moving scene: several layers, several key blocks, a short last block.
fn nested_stream(drift_free: bool) -> (SequenceHeader, Vec<Packet>) {
    let (w, h) = (90, 60);
    let config = EncoderConfig {
        width: w as u32,
        height: h as u32,
        key_int_max: 6,
        drift_free,
        ..SIZE.config(
            &Bundle::builtin().unwrap(),
            SearchMethod::Regression,
            LiveSettings { target_psnr: 46.0, ..Default::default() },
        )
    };
    let mut e = Encoder::new(config).unwrap();
    let scene = Rgb { width: w, height: h };
    let mut packets = Vec::new();
    for n in 0..11usize {
        let luma: Vec<u8> = scene.frame(2 * n).chunks_exact(3).map(|p| p[1]).collect();
        let chroma = vec![128; w / 2 * (h / 2)];
        let picture = PlanesRef { format: SourceFormat::I420, planes: [&luma, &chroma, &chroma], strides: [w, w / 2, w / 2] };
        packets.extend(e.push(&picture, FrameTime { pts: Some(n as u64 * 40_000_000), duration: None }).unwrap());
    }
    packets.extend(e.drain().unwrap());
    (e.sequence_header().clone(), packets)
}

#[test]
fn nested_blocks_come_back_byte_for_byte() {
    let bundle = Bundle::builtin().unwrap();
    for drift_free in [false, true] {
        let (header, packets) = nested_stream(drift_free);
        let (mut reader, mut writer) = (TokenReader::new(&bundle, &header).unwrap(), TokenWriter::new(&bundle, &header).unwrap());
        let shape = reader.shape();
        let (mut most, mut small) = (0, false);
        for layers in 1..=4 {
            for packet in &packets {
                let data = thin(&packet.data, layers).unwrap();
                let block = reader.read(data, None).unwrap();
                let TokenValues::Nested { indices, layer_counts, transform_sizes, motion } = &block.tokens else {
                    panic!("nested")
                };
                let came = indices.len() / (shape.cells() * shape.numbers);
                assert_eq!(layer_counts.len(), came * shape.cells());
                assert_eq!(motion.len(), 5 * shape.cells());
                assert_eq!(transform_sizes.len(), shape.cells());
                small |= transform_sizes.iter().any(|size| *size > 0);
                assert_eq!(shape.tokens, 4 * shape.numbers);
                most = most.max(came);
                for (cell, &count) in block.counts.iter().enumerate() {
                    let sent = |layer: &usize| layer_counts[layer * shape.cells() + cell] > 0;
                    if let Some(top) = (0..came).rev().find(sent) {
                        let expected = top * shape.numbers + layer_counts[top * shape.cells() + cell] as usize;
                        assert_eq!(count as usize, expected, "cell {cell}");
                    }
                }
                assert_eq!(writer.write(&block).unwrap(), data, "{layers} layers, drift-free: {drift_free}");
            }
        }
        assert!(most >= 3 && small, "the stream has {most} layers; other transform sizes than 16x16: {small}");
    }
}

#[test]
fn changed_nested_tokens_make_a_stream_of_those() {
    let bundle = Bundle::builtin().unwrap();
    let (header, packets) = nested_stream(false);
    let (mut reader, mut writer) = (TokenReader::new(&bundle, &header).unwrap(), TokenWriter::new(&bundle, &header).unwrap());
    let mut other = TokenReader::new(&bundle, &header).unwrap();
    for packet in &packets {
        let mut block = reader.read(&packet.data, None).unwrap();
        let TokenValues::Nested { indices, transform_sizes, .. } = &mut block.tokens else { panic!("nested") };
        indices.iter_mut().step_by(7).for_each(|k| *k = 1 - *k);
        transform_sizes.iter_mut().step_by(5).for_each(|size| *size = (*size + 1) % 3);
        let wanted = (indices.clone(), transform_sizes.clone());
        let again = other.read(&writer.write(&block).unwrap(), None).unwrap();
        let TokenValues::Nested { indices, transform_sizes, .. } = again.tokens else { panic!("nested") };
        assert!((indices, transform_sizes) == wanted);
    }
    let good = reader.read(&packets[0].data, None).unwrap();
    let TokenValues::Nested { indices, layer_counts, transform_sizes, motion } = good.tokens.clone() else { panic!("nested") };
    let refused_sizes = |indices: Vec<i16>, motion: Vec<i32>, transform_sizes: Vec<i32>| {
        let tokens = TokenValues::Nested { indices, layer_counts: layer_counts.clone(), transform_sizes, motion };
        let mut writer = TokenWriter::new(&bundle, &header).unwrap();
        assert!(matches!(writer.write(&elastictok::codec::TokenBlock { tokens, ..good.clone() }), Err(Error::Settings(_))));
    };
    refused_sizes(indices.clone(), motion.clone(), transform_sizes[1..].to_vec());
    refused_sizes(indices.clone(), motion.clone(), vec![3; transform_sizes.len()]);
    let refused = |indices, motion| refused_sizes(indices, motion, transform_sizes.clone());
    refused(indices[1..].to_vec(), motion.clone());
    refused(Vec::new(), motion.clone());
    refused(vec![i16::MIN; indices.len()], motion.clone());
    refused(indices.clone(), motion[1..].to_vec());
    refused(indices.clone(), vec![256; motion.len()]);
    refused(indices.clone(), vec![i32::MIN; motion.len()]);
    refused(indices.clone(), vec![2; motion.len()]); // blended, and nothing beside moves differently
    refused(indices, vec![3; motion.len()]);
}

#[test]
fn a_missing_nested_block_is_noticed() {
    let bundle = Bundle::builtin().unwrap();
    let (header, packets) = nested_stream(false);
    let (mut reader, mut writer) = (TokenReader::new(&bundle, &header).unwrap(), TokenWriter::new(&bundle, &header).unwrap());
    assert!(packets[0].key && !packets[1].key && !packets[2].key);
    let first = reader.read(&packets[0].data, None).unwrap();
    assert!(matches!(reader.read(&packets[2].data, None), Err(Error::ContextLost(_))));
    let second = reader.read(&packets[1].data, None).unwrap();
    let third = reader.read(&packets[2].data, None).unwrap();
    let again = reader.read(&packets[2].data, None).unwrap();
    assert!(again.counts == third.counts, "the last block may be read again");
    assert!(matches!(writer.write(&second), Err(Error::ContextLost(_))));
    assert_eq!(writer.write(&first).unwrap(), packets[0].data);
    assert!(matches!(writer.write(&third), Err(Error::ContextLost(_))));
    for _ in 0..2 {
        assert_eq!(writer.write(&second).unwrap(), packets[1].data);
    }
    assert_eq!(writer.write(&third).unwrap(), packets[2].data);
}
