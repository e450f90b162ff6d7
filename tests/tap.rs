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
    Encoder, FrameTime, LiveSettings, Packet, SearchMethod, TokenReader, TokenShape, TokenValues, TokenWriter,
};
use elastictok::frame::{PlanesRef, SourceFormat};

const SIZE: Rgb = Rgb { width: 70, height: 45 };

/// A stream with counts of all sizes, several key blocks, irregular times and a shorter last block.
fn stream(bundle: &Arc<Bundle>) -> (SequenceHeader, Vec<Packet>) {
    let live = LiveSettings { target_mse: 0.01, ..Default::default() };
    let config = SIZE.config(bundle, SearchMethod::Binary, live);
    let mut e = Encoder::new(elastictok::codec::EncoderConfig { key_int_max: 12, ..config }).unwrap();
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
        // What a receiver of the first layer has: four tokens at the most.
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
    bad.tokens = TokenValues::Means(vec![0.0; 240]);
    assert!(writer.write(&bad).is_err());
    assert_eq!(writer.write(&good).unwrap(), packets[0].data, "and then goes on");
    let mut broken = packets[0].data.to_vec();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    assert!(matches!(reader.read(&broken, None), Err(Error::Malformed(_))));
    assert!(matches!(TokenReader::new(&tiny("vae"), &header), Err(Error::Model(_))));
    let builtin = Bundle::builtin().unwrap();
    let nested = SequenceHeader {
        fingerprint: builtin.fingerprint,
        pixel_format: elastictok::bitstream::PixelFormat::I420,
        block_length: builtin.manifest.block_length as u8,
        ..header
    };
    assert!(matches!(TokenReader::new(&builtin, &nested), Err(Error::Unsupported(m)) if m.contains("nested")));
}
