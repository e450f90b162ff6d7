// SPDX-License-Identifier: MIT OR Apache-2.0
//! Filling blocks, with a coder that fails when told to.

use std::sync::{Arc, Mutex};

use super::coder::{Settled, Spent};
use super::*;
use crate::bundle::Bundle;
use crate::codec::SearchMethod;
use crate::frame::SourceFormat;
use crate::runtime::RuntimeConfig;

/// What the coder did and is to do.
#[derive(Default)]
struct Told {
    keys: Vec<bool>,
    fail: bool,
    /// In what goes on after the block was coded.
    fail_later: bool,
}

struct FakeCoder {
    frames: Vec<u8>,
    told: Arc<Mutex<Told>>,
    segments: Vec<Vec<u8>>,
}

impl BlockCoder for FakeCoder {
    fn frames_mut(&mut self) -> &mut [u8] {
        &mut self.frames
    }

    fn set_live(&mut self, _: LiveSettings) -> Result<()> {
        Ok(())
    }

    fn restart(&mut self, _: LiveSettings) -> Result<()> {
        Ok(())
    }

    fn least_bitrate(&self) -> Option<f64> {
        None
    }

    fn above_target(&self) -> bool {
        false
    }

    fn code(&mut self, place: Place) -> Result<CodedBlock> {
        let mut told = self.told.lock().expect("no panic before");
        if std::mem::take(&mut told.fail) {
            return Err(Error::Runtime("told to fail".into()));
        }
        told.keys.push(place.must_be_key);
        Ok(CodedBlock { key: place.must_be_key, ..CodedBlock::default() })
    }

    fn segments(&self) -> &[Vec<u8>] {
        &self.segments
    }

    fn counts(&self) -> &[i32] {
        &[]
    }

    fn learn(&mut self, _: &CodedBlock, _: f64) {}

    fn is_settled(&self) -> bool {
        false
    }

    fn settle(&mut self) -> Result<Option<Settled>> {
        let failed = std::mem::take(&mut self.told.lock().expect("no panic before").fail_later);
        if failed { Err(Error::Runtime("told to fail later".into())) } else { Ok(None) }
    }

    fn spent(&self) -> Spent {
        Spent::default()
    }

    fn provider(&self) -> &'static str {
        "none"
    }
}

fn encoder(key_int_max: u32) -> (Encoder, Arc<Mutex<Told>>) {
    let bundle = Bundle::resolve("builtin").expect("the builtin bundle");
    let geometry = bundle.geometry(16, 16).expect("a size");
    let told = Arc::new(Mutex::new(Told::default()));
    let frames = vec![0; geometry.frame_bytes() * bundle.manifest.block_length as usize];
    let coder = FakeCoder { frames, told: told.clone(), segments: vec![Vec::new(); bundle.manifest.layers.len()] };
    let config = EncoderConfig {
        bundle,
        runtime: RuntimeConfig::default(),
        width: 16,
        height: 16,
        framerate: (30, 1),
        pixel_aspect_ratio: (1, 1),
        colorimetry: [0, 2, 2, 2],
        chroma_site: 0,
        key_int_max,
        search: SearchMethod::default(),
        layers: 0,
        layer_ratio: 2.0,
        drift_free: true,
        live: LiveSettings::default(),
    };
    (Encoder::with(config, geometry, Box::new(coder)).expect("an encoder"), told)
}

fn push(encoder: &mut Encoder) -> Result<Option<Packet>> {
    let (luma, chroma) = ([90; 256], [128; 64]);
    let picture = PlanesRef { format: SourceFormat::I420, planes: [&luma, &chroma, &chroma], strides: [16, 8, 8] };
    encoder.push(&picture, FrameTime::default())
}

#[test]
fn after_an_error_coding_goes_on_with_a_key_block() {
    let (mut encoder, told) = encoder(0);
    for _ in 0..4 {
        push(&mut encoder).expect("coded");
    }
    push(&mut encoder).expect("kept");
    told.lock().expect("no panic").fail = true;
    assert!(matches!(push(&mut encoder), Err(Error::Runtime(_))));
    assert_eq!(encoder.pending(), 0);
    // A picture that does not hold what it should is refused and nothing else is lost.
    push(&mut encoder).expect("kept");
    let short = PlanesRef { format: SourceFormat::I420, planes: [&[0; 4], &[], &[]], strides: [16, 8, 8] };
    assert!(encoder.push(&short, FrameTime::default()).is_err());
    assert!(push(&mut encoder).expect("coded").expect("full").key);
    told.lock().expect("no panic").fail = true;
    push(&mut encoder).expect("kept");
    assert!(encoder.drain().is_err());
    assert!(encoder.drain().expect("nothing waits").is_none());
    assert_eq!(told.lock().expect("no panic").keys, [true, false, true]);
}

#[test]
fn an_error_of_decoding_comes_with_the_next_call_that_waits_for_it() {
    let (mut encoder, told) = encoder(0);
    let fail = || told.lock().expect("no panic").fail_later = true;
    for _ in 0..4 {
        push(&mut encoder).expect("coded");
    }
    fail();
    push(&mut encoder).expect("kept");
    assert!(matches!(push(&mut encoder), Err(Error::Runtime(_))));
    assert_eq!(encoder.pending(), 0);
    push(&mut encoder).expect("kept");
    assert!(push(&mut encoder).expect("coded").expect("full").key);
    fail();
    encoder.set_live(LiveSettings { target_psnr: 40.0, ..Default::default() }).expect("the settings are not at fault");
    assert_eq!(encoder.live().target_psnr, 40.0);
    assert!(encoder.drain().expect("nothing waits").is_none());
    push(&mut encoder).expect("kept");
    assert!(matches!(push(&mut encoder), Err(Error::Runtime(_))));
    fail();
    encoder.reset();
    push(&mut encoder).expect("kept");
    assert!(push(&mut encoder).expect("nothing follows what failed").expect("full").key);
    fail();
    assert!(encoder.settle().is_err());
    encoder.settle().expect("once");
    push(&mut encoder).expect("kept");
    assert!(push(&mut encoder).expect("coded").expect("full").key);
    assert_eq!(told.lock().expect("no panic").keys, [true, false, true, true, true]);
}

#[test]
fn a_block_is_cut_short_where_a_key_block_is_due() {
    for (limit, expected) in
        [(1, &[1, 1, 1, 1][..]), (3, &[2, 1, 2, 1]), (5, &[2, 2, 1, 2]), (4, &[2, 2, 2, 2]), (0, &[2, 2, 2, 2])]
    {
        let (mut encoder, told) = encoder(limit);
        let mut frames = Vec::new();
        while frames.len() < 4 {
            frames.extend(push(&mut encoder).expect("coded").map(|packet| packet.frames));
        }
        assert_eq!(frames, expected, "limit {limit}");
        let mut since = 0;
        let keys: Vec<_> = frames
            .iter()
            .map(|n| {
                let key = since == 0;
                since = if limit > 0 && since + n >= limit { 0 } else { since + n };
                key
            })
            .collect();
        assert_eq!(told.lock().expect("no panic").keys, keys, "limit {limit}");
    }
}

#[test]
fn a_key_block_that_a_receiver_waits_for_has_one_frame() {
    let (mut encoder, told) = encoder(0);
    let mut frames = Vec::new();
    for n in 0..8 {
        if n == 4 {
            encoder.hurry_key();
        }
        frames.extend(push(&mut encoder).expect("coded").map(|packet| packet.frames));
    }
    assert_eq!(frames, [2, 2, 1, 2], "and one frame waits");
    encoder.hurry_key();
    let packet = encoder.drain().expect("coded").expect("the frame that waits");
    assert_eq!((packet.key, packet.frames), (true, 1));
    assert_eq!(told.lock().expect("no panic").keys, [true, false, true, false, true]);
}
