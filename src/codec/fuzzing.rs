// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must hold of any payloads in a block whose checksums are right: shared by the fuzz target and the tests.

use std::borrow::Cow;
use std::cell::RefCell;

use bytes::BytesMut;

use super::decoder::{BlockReader, usable};
use super::setup::{check_quantiser, max_quantiser};
use crate::Error;
use crate::bitstream::{Block, BlockHeader, BlockWriter, SequenceHeader, Timing, thin};
use crate::bundle::{Bottleneck, Bundle, Manifest};
use crate::frame::Geometry;
use crate::runtime::TokensMut;
use crate::tokens::MAX_NESTED_LAYERS;
use crate::tokens::motion::MAX_MOTION;

/// Segments that an input gives at most: one more than any stream here has layers.
const SEGMENTS: usize = 6;
/// Layer ratio of the nested stream.
const RATIO: u8 = 7;

/// A bundle's block reader for small pictures; its graphs are never opened.
struct Case {
    bundle: Bundle,
    geometry: Geometry,
    reader: BlockReader,
}

impl Case {
    fn new(bundle: Bundle, width: u32, height: u32) -> Self {
        let geometry = bundle.geometry(width, height).expect("a valid size");
        let nested = matches!(bundle.manifest.bottleneck, Bottleneck::Nested { .. });
        let (layers, layer_ratio) = if nested { (MAX_NESTED_LAYERS, RATIO) } else { (bundle.manifest.layers.len(), 0) };
        let header = SequenceHeader {
            fingerprint: bundle.fingerprint,
            width,
            height,
            framerate: (0, 1),
            pixel_aspect_ratio: (1, 1),
            colorimetry: [0, 2, 2, 2],
            pixel_format: bundle.manifest.pixel_format,
            block_length: bundle.manifest.block_length as u8,
            chroma_site: 0,
            layers: layers as u8,
            layer_ratio,
        };
        let reader = BlockReader::new(&bundle, &geometry, &header).expect("a valid bundle");
        Self { bundle, geometry, reader }
    }

    fn fixed(manifest: &[u8]) -> Self {
        let manifest = Manifest::parse(manifest).expect("a valid manifest");
        let nothing = || Vec::new().into();
        let bundle = Bundle {
            manifest,
            encoder: nothing(),
            decoder: nothing(),
            loop_graph: None,
            tables: Cow::Borrowed(&[]),
            fingerprint: [0; 8],
        };
        Self::new(bundle, 48, 32)
    }

    fn all() -> Vec<Self> {
        let builtin = Bundle::builtin().expect("valid");
        vec![
            Self::new((*builtin).clone(), 80, 48),
            Self::fixed(include_bytes!("../../tests/bundles/fsq/bundle.json")),
            Self::fixed(include_bytes!("../../tests/bundles/vae/bundle.json")),
        ]
    }

    /// Reads a block twice; layers, counts and tokens, the same both times.
    fn read(&mut self, block: &Block<'_>, most: usize) -> Result<(usize, Vec<i32>, Vec<i32>), Error> {
        check_quantiser(block.header(), max_quantiser(&self.bundle))?;
        usable(block)?;
        let first = self.read_once(block, most)?;
        assert_eq!(self.read_once(block, most).as_ref(), Ok(&first), "a block must not depend on what was read before");
        Ok(first)
    }

    fn read_once(&mut self, block: &Block<'_>, most: usize) -> Result<(usize, Vec<i32>, Vec<i32>), Error> {
        let header = block.header();
        let (layers, _) = self.reader.read(block, most)?;
        assert!((1..=self.reader.layers().min(most)).contains(&layers), "{layers} layers");
        let (m, cells) = (&self.bundle.manifest, self.geometry.cells());
        let k = m.stream_tokens_per_cell(self.reader.layers()) as usize;
        let (counts, tokens): (Vec<i32>, Vec<i32>) = match &m.bottleneck {
            Bottleneck::Nested { positions, .. } => {
                let mut latents = vec![0i16; cells * positions.len()];
                let counts = self.reader.tokens(TokensMut::I16(&mut latents))?.to_vec();
                (counts, latents.into_iter().map(i32::from).collect())
            }
            Bottleneck::Fsq { levels } => {
                let mut indices = vec![0i32; cells * k];
                let counts = self.reader.tokens(TokensMut::I32(&mut indices))?.to_vec();
                let codes: u32 = levels.iter().product();
                assert!(indices.iter().all(|&i| u32::try_from(i).is_ok_and(|i| i < codes)));
                (counts, indices)
            }
            Bottleneck::Vae { dimensions, .. } => {
                let mut means = vec![0f32; cells * k * *dimensions as usize];
                let counts = self.reader.tokens(TokensMut::F32(&mut means))?.to_vec();
                assert!(means.iter().all(|x| x.is_finite()));
                (counts, means.into_iter().map(|x| x.to_bits().cast_signed()).collect())
            }
        };
        assert!(counts.iter().all(|&n| (0..=k as i32).contains(&n)), "{counts:?} of {k} tokens");
        if let Some(motion) = self.reader.motion() {
            let (modes, (vectors, bends)) = (&motion[2 * cells..3 * cells], (&motion[..2 * cells], &motion[3 * cells..]));
            let mut components = vectors.iter().chain(bends);
            assert!(components.clone().all(|v| v.abs() <= MAX_MOTION) && modes.iter().all(|m| [0, 1, 2].contains(m)));
            assert!(!header.key || (components.all(|v| *v == 0) && modes.iter().all(|m| *m == 1)));
        }
        assert!(self.reader.step(header).is_none_or(|step| step.is_finite() && step > 0.0));
        Ok((layers, counts, tokens))
    }
}

thread_local! {
    static CASES: RefCell<Vec<Case>> = RefCell::new(Case::all());
}

/// The first byte picks the bundle, the second the header's flags, the third the quantiser, the fourth how many bytes are cut off
/// the block's end. Then up to six segments: a u16 length, little-endian, and that many bytes, as far as there are any.
pub fn segments(data: &[u8]) {
    let [which, flags, quantiser, cut, payloads @ ..] = data else { return };
    CASES.with_borrow_mut(|cases| {
        let n = cases.len();
        check(&mut cases[usize::from(*which) % n], *flags, *quantiser, *cut, payloads);
    });
}

/// The block that an input's bytes after the first stand for.
fn block(flags: u8, quantiser: u8, mut payloads: &[u8], length: u8) -> BytesMut {
    let key = flags & 1 != 0;
    let header = BlockHeader {
        key,
        epoch: 0,
        position: u32::from(!key),
        left_out: flags >> 1 & 7,
        frames: length,
        quantiser,
        base_quantiser: (flags & 16 != 0).then(|| quantiser.saturating_add(flags >> 5 << 2)),
        timing: Timing { base: key.then_some(0), ..Timing::default() },
    };
    let mut out = BytesMut::new();
    let mut writer = BlockWriter::begin(&header, length, &mut out).expect("a valid header");
    for _ in 0..SEGMENTS {
        let Some((&size, rest)) = payloads.split_first_chunk::<2>() else { break };
        let (payload, rest) = rest.split_at(usize::from(u16::from_le_bytes(size)).min(rest.len()));
        writer.segment(payload);
        payloads = rest;
    }
    out
}

fn check(case: &mut Case, flags: u8, quantiser: u8, cut: u8, payloads: &[u8]) {
    let length = case.bundle.manifest.block_length as u8;
    let out = block(flags, quantiser, payloads, length);
    let data = &out[..out.len() - usize::from(cut).min(out.len())];
    let Ok(block) = Block::parse(data, length) else { return };
    let whole = match case.read(&block, usize::MAX) {
        Ok(whole) => whole,
        Err(Error::Malformed(_)) => return,
        Err(other) => panic!("{other}"),
    };
    // A prefix of what was read can be read, cut off in the stream or left aside by the reader.
    for layers in 1..whole.0 {
        let thinned = thin(data, layers).expect("whole segments");
        let thinned = Block::parse(thinned, length).expect("thinning leaves the header");
        let cut = case.read(&thinned, usize::MAX).expect("a prefix decodes");
        assert!(cut.0 <= layers);
        assert_eq!(case.read(&block, layers), Ok(cut));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::*;
    use crate::codec::setup::{Nested, StreamLayers};
    use crate::tokens::{NestedEncoder, Rdo};

    /// Inputs that decode.
    fn seeds() -> &'static [Vec<u8>] {
        static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
        SEEDS.get_or_init(make_seeds)
    }

    fn make_seeds() -> Vec<Vec<u8>> {
        let bundle = Bundle::builtin().expect("valid");
        let geometry = bundle.geometry(80, 48).expect("valid");
        let (layers, ratio) = (MAX_NESTED_LAYERS, RATIO);
        let Nested { layout, tables, .. } = Nested::new(&bundle.manifest, &bundle.tables, &geometry, layers).expect("valid");
        let mut encoder = NestedEncoder::new(&layout, &tables).expect("valid");
        let (cells, c) = (layout.cells(), layout.coefficients());
        let mut out = Vec::new();
        for (i, quantiser) in (0u8..).zip([0, 20, 40, 60, 87]) {
            let latent = |n: usize| ((n * 2_654_435_761) >> 7) as i16 % (30_000 / (1 + (n % c / 4) as i16)).max(2);
            let latents: Vec<i16> = (0..cells * c).map(latent).collect();
            let mode = 2 * cells..3 * cells;
            let motion: Vec<i32> =
                (0..5 * cells).map(|n| if mode.contains(&n) { n as i32 % 5 / 4 } else { n as i32 * 7 % 511 - 255 }).collect();
            let key = i % 2 == 0;
            let depth = layers - usize::from(i) % layers;
            let motion = (!key).then_some(&motion[..]);
            let steps = StreamLayers { layers, ratio }.steps(depth, quantiser, None);
            encoder.quantise(&latents, steps, motion, &Rdo::default()).expect("quantises");
            let mut input = vec![0, u8::from(key) | ((layers - depth) as u8) << 1, quantiser, 0];
            for layer in 0..depth {
                let mut segment = Vec::new();
                encoder.write_segment(layer, motion, &mut segment).expect("written");
                input.extend((segment.len() as u16).to_le_bytes());
                input.extend(segment);
            }
            out.push(input);
        }
        // fixed tokens are nearly all of the bytes there are
        for which in [1, 2] {
            let payload = (0..600u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8);
            out.push([which, 1, 0, 0, 200, 0].into_iter().chain(payload).collect());
            out.push(vec![which, 0, 0, 0]);
        }
        out
    }

    /// With `ELASTICTOK_FUZZ_SEEDS` set to a directory, they are written there for the fuzzer.
    #[test]
    fn whole_blocks_decode() {
        for (i, seed) in seeds().iter().enumerate() {
            segments(seed);
            if seed[0] == 0 {
                let data = block(seed[1], seed[2], &seed[4..], 2);
                let block = Block::parse(&data, 2).expect("whole");
                let read = CASES.with_borrow_mut(|cases| cases[0].read(&block, usize::MAX));
                let (layers, _, tokens) = read.expect("decodes");
                assert!(layers <= MAX_NESTED_LAYERS - usize::from(seed[1] >> 1));
                assert!(tokens.iter().any(|t| *t != 0));
            }
            if let Some(folder) = std::env::var_os("ELASTICTOK_FUZZ_SEEDS") {
                std::fs::write(std::path::Path::new(&folder).join(format!("seed-{i}")), seed).expect("writable");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn any_payload(which in 0u8..3, flags in any::<u8>(), quantiser in 0u8..90, data in proptest::collection::vec(any::<u8>(), 0..300)) {
            segments(&[&[which, flags, quantiser, 0][..], &data].concat());
        }

        #[test]
        fn damaged_blocks(seed in 0usize..9, hits in proptest::collection::vec((any::<u32>(), any::<u8>()), 1..6), cut in 0u8..40) {
            let mut data = seeds()[seed].clone();
            for (at, value) in hits {
                let at = at as usize % data.len();
                data[at] = value;
            }
            data[3] = cut.saturating_sub(20);
            segments(&data);
        }
    }
}
