// SPDX-License-Identifier: MIT OR Apache-2.0
//! Media segments: every prefix is the stream with fewer layers, and the whole is the stream.

use super::*;

/// A media segment of `blocks`, and where its layers end.
fn media(blocks: &[BytesMut]) -> (BytesMut, Vec<usize>) {
    let mut writer = MediaSegmentWriter::new(&sequence()).expect("valid");
    blocks.iter().for_each(|block| writer.push(block).expect("fits"));
    let mut out = BytesMut::new();
    let ends = writer.finish(&mut out).expect("blocks");
    (out, ends.iter().map(|&end| end as usize).collect())
}

fn read(data: &[u8]) -> crate::Result<(usize, BytesMut)> {
    let mut out = BytesMut::new();
    read_media_segment(data, &Limits::default(), &mut out).map(|layers| (layers, out))
}

fn thinned(blocks: &[BytesMut], layers: usize) -> BytesMut {
    let thinned: Vec<_> = blocks.iter().map(|block| BytesMut::from(thin(block, layers).expect("whole"))).collect();
    byte_stream(&thinned)
}

proptest! {
    #[test]
    fn prefixes_are_the_thinned_stream(count in 1u32..9, layers in 0usize..6, lengths in proptest::collection::vec(prop_oneof![Just(0usize), 0usize..300], 1..6)) {
        let blocks = blocks(count, layers, &lengths);
        let (data, ends) = media(&blocks);
        prop_assert_eq!(*ends.last().expect("one"), data.len());
        prop_assert_eq!(read(&data), Ok((ends.len(), byte_stream(&blocks))));
        for (layers, &end) in (1..).zip(&ends) {
            prop_assert_eq!(read(&data[..end]), Ok((layers, thinned(&blocks, layers))));
        }
        // The base layer's part is a byte stream by itself, and the whole is one with junk behind.
        prop_assert_eq!(&data[..ends[0]], &thinned(&blocks, 1)[..]);
    }

    #[test]
    fn a_prefix_of_any_length_holds_blocks_of_the_stream(layers in 1usize..4, cut in 0.0..1.0f64) {
        let blocks = blocks(7, layers, &[40, 0, 200]);
        let (data, ends) = media(&blocks);
        let cut = (data.len() as f64 * cut) as usize;
        let whole = ends.iter().filter(|&&end| end <= cut).count();
        match read(&data[..cut]) {
            Err(_) => prop_assert!(whole == 0),
            Ok((found, stream)) => {
                prop_assert_eq!(found, whole.max(1));
                let got: Vec<_> = units(&stream).into_iter().filter(|unit| unit.kind == UnitKind::Block).collect();
                prop_assert!(got.iter().zip(&blocks).all(|(got, block)| block.starts_with(&got.payload)));
                prop_assert!(whole == 0 || got.len() == blocks.len());
            }
        }
    }
}

#[test]
fn what_cannot_be_cut_comes_back_as_it_was() {
    let mut all = blocks(4, 3, &[30, 20, 10]);
    // Empty segments at the end, a segment that is cut short, and a block whose first segment is.
    all[1].extend_from_slice(&[0, 0, 0]);
    let (short, shorter) = (all[2].len() - 4, 16);
    all[2].truncate(short);
    all[3].truncate(shorter);
    let (data, ends) = media(&all);
    assert_eq!(read(&data), Ok((ends.len(), byte_stream(&all))));
}

#[test]
fn several_segments_follow_each_other() {
    let all = blocks(9, 2, &[50, 9]);
    let mut writer = MediaSegmentWriter::new(&sequence()).expect("valid");
    let (mut joined, mut out) = (BytesMut::new(), BytesMut::new());
    for group in all.chunks(3) {
        group.iter().for_each(|block| writer.push(block).expect("fits"));
        assert_eq!(writer.blocks(), 3);
        out.clear();
        let ends = writer.finish(&mut out).expect("blocks");
        assert_eq!(ends.len(), 2);
        read_media_segment(&out, &Limits::default(), &mut joined).expect("whole");
    }
    assert_eq!(joined, byte_stream(&all));
    assert!(writer.finish(&mut out).is_err(), "nothing was pushed");
    assert!(writer.push(&all[1]).is_err(), "not a key block");
}

#[test]
fn damage_is_found() {
    let (data, ends) = media(&blocks(3, 2, &[50, 9]));
    let layer = ends[0];
    for (at, byte) in [(0, 0), (1, 0), (layer, 0), (layer + 1, 0), (layer + 2, 3), (layer + 3, data[layer + 3] ^ 1)] {
        let mut damaged = data.clone();
        damaged[at] = byte;
        let mut out = BytesMut::from(&b"kept"[..]);
        assert!(read_media_segment(&damaged, &Limits::default(), &mut out).is_err(), "byte {at}");
        assert_eq!(&out[..], b"kept");
    }
    assert!(read(&[&data[..], &[0]].concat()).is_err(), "bytes after the last layer");
    assert!(read(&[]).is_err());
    // A layer with a piece too many.
    let mut more = data[..layer].to_vec();
    more.extend_from_slice(&[0xE7, 0x4C, 4]);
    more.push(super::super::crc::crc8(&[0x4C, 4]));
    more.extend_from_slice(&[0; 4]);
    assert!(read(&more).is_err());
}

fn index(count: usize) -> MediaIndex {
    let mut index = MediaIndex::new(176, 144, (30000, 1001));
    let entry = |n: usize| MediaSegmentEntry {
        uri: format!("a/{n:05}.etoks"),
        duration_ns: 1 << 30,
        layer_ends: vec![100, 300 + n as u64],
    };
    index.segments = (0..count).map(entry).collect();
    index
}

#[test]
fn an_index_comes_back() {
    let index = index(3);
    let json = index.to_json();
    assert_eq!(MediaIndex::parse(json.as_bytes(), &Limits::default()), Ok(index.clone()));
    assert_eq!((index.layers(), index.segments[2].bytes(1), index.segments[2].bytes(9)), (2, 100, 302));
    assert!(index.bitrate(1) < index.bitrate(2));
    let newer = json.replacen("\"width\"", "\"later\": [1], \"width\"", 1);
    assert_eq!(MediaIndex::parse(newer.as_bytes(), &Limits::default()), Ok(index), "fields that are not known are ignored");
}

#[test]
fn a_wrong_index_is_refused() {
    let json = index(2).to_json();
    for (good, bad) in [
        ("elastictok-media", "other"),
        ("\"version\": 1", "\"version\": 2"),
        ("[100,301]", "[]"),
        ("[100,301]", "[0,301]"),
        ("[100,301]", "[100,100]"),
        ("[100,301]", "[100,99999999999]"),
        ("[100,301]", "[-1]"),
        ("a/00001", "../00001"),
        ("a/00001", "/00001"),
        ("a/00001", "http://x/00001"),
        ("a/00001", "a/0?x"),
        ("a/00001.etoks", ""),
        ("\"width\": 176", "\"width\": 100000"),
        ("1001]", "0]"),
        ("1073741824", "99999999999999999"),
        ("}\n", ""),
    ] {
        let wrong = json.replace(good, bad);
        assert_ne!(wrong, json, "{good}");
        let refused = MediaIndex::parse(wrong.as_bytes(), &Limits::default());
        assert!(refused.is_err(), "{good} -> {bad}");
    }
    assert!(MediaIndex::parse(index(0).to_json().as_bytes(), &Limits::default()).is_err(), "no media segment");
}
