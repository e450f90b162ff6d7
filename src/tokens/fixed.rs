// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tokens of fixed width: FSQ indices and quantised VAE means, all values equally likely, and how many of them each cell has.
//!
//! Layer j carries the tokens with index in [b(j), b(j+1)), b(0) = 0, of every cell that has any, and its own part of the
//! counts.

use crate::bundle::{Bottleneck, Manifest};
use crate::entropy::{BitCoder, Context, RangeDecoder, RangeEncoder};
use crate::{Error, Result};

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FixedKind {
    /// An index in 0..`codes` (the product of the FSQ levels).
    Fsq {
        /// Number of codes, 1..=2^32.
        codes: u64,
    },
    /// `dimensions` numbers, each sent as `bits`-bit two's complement (1..=16) of round(x * scale).
    Vae {
        /// Numbers in a token.
        dimensions: usize,
        /// Quantiser scale, above 0.
        scale: f32,
        /// Bits of a number.
        bits: u32,
    },
}

impl FixedKind {
    /// The kind of a bundle's tokens.
    pub fn new(manifest: &Manifest) -> Result<Self> {
        match &manifest.bottleneck {
            Bottleneck::Fsq { levels } => Ok(Self::Fsq { codes: levels.iter().map(|&l| u64::from(l)).product() }),
            Bottleneck::Vae { dimensions, scale, bits } => {
                Ok(Self::Vae { dimensions: *dimensions as usize, scale: *scale, bits: *bits })
            }
            Bottleneck::Nested { .. } => Err(Error::Unsupported(format!(
                "bundle '{}' has nested tokens; only those of fsq and vae bundles are of fixed width",
                manifest.name
            ))),
        }
    }

    /// Numbers in a token.
    pub fn numbers(&self) -> usize {
        match *self {
            Self::Fsq { .. } => 1,
            Self::Vae { dimensions, .. } => dimensions,
        }
    }
}

/// Contexts of counts: (part: none, all; left and top cell: none, some, all).
const CONTEXTS: usize = 2 * 9;
/// Most numbers that a decoder allocates, whatever a stream says.
const MAX_NUMBERS: usize = 1 << 28;

/// Codes blocks of fixed-width tokens. Buffers are allocated once.
#[derive(Debug)]
pub struct FixedCoder {
    kind: FixedKind,
    cells_x: usize,
    cells: usize,
    /// Layer boundaries, b0 = 0 first.
    bounds: Vec<usize>,
    contexts: Vec<Context>,
    codes: Vec<u32>,
    counts: Vec<i32>,
}

impl FixedCoder {
    /// `layers`: boundaries b1 < .. < bL = K tokens per cell, as in the bundle's manifest.
    pub fn new(kind: FixedKind, cells_x: usize, cells_y: usize, layers: &[usize]) -> Result<Self> {
        let bad = |what: &str| Err(Error::Model(format!("bottleneck: {what}; correct the bundle's manifest")));
        let numbers = match kind {
            FixedKind::Fsq { codes } if (1..=1 << 32).contains(&codes) => 1,
            FixedKind::Fsq { .. } => return bad("the product of the levels is not in 1..=2^32"),
            FixedKind::Vae { bits, scale, .. } if !((1..=16).contains(&bits) && scale.is_finite() && scale > 0.0) => {
                return bad("bits not in 1..=16, or a scale that is not above 0");
            }
            FixedKind::Vae { dimensions, .. } => dimensions,
        };
        if layers.is_empty() || layers[0] == 0 || layers.windows(2).any(|w| w[0] >= w[1]) {
            return bad("layer boundaries do not rise");
        }
        let (cells, most) = (cells_x.saturating_mul(cells_y), layers[layers.len() - 1]);
        let all = cells.saturating_mul(most).saturating_mul(numbers);
        if all == 0 || all > MAX_NUMBERS {
            return Err(Error::Limit(format!("{all} numbers in a block; 1..={MAX_NUMBERS} can be coded: use a smaller picture")));
        }
        Ok(Self {
            kind,
            cells_x,
            cells,
            bounds: std::iter::once(0).chain(layers.iter().copied()).collect(),
            contexts: Vec::with_capacity(CONTEXTS),
            codes: vec![0; all],
            counts: vec![0; cells],
        })
    }

    /// What a token is.
    pub fn kind(&self) -> FixedKind {
        self.kind
    }

    /// Layers of the bundle.
    pub fn layers(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Takes the FSQ indices of a block, \[cells, K\], with its counts, \[cells\] in 0..=K.
    pub fn load_indices(&mut self, tokens: &[i32], counts: &[i32]) -> Result<()> {
        let FixedKind::Fsq { codes } = self.kind else {
            return Err(self.wrong_kind());
        };
        self.check(tokens.len(), counts)?;
        for (code, &token) in self.codes.iter_mut().zip(tokens) {
            *code = token as u32;
            if u64::from(*code) >= codes {
                return Err(Error::Model(format!("the encoder graph gave token {token} of {codes}; export the bundle again")));
            }
        }
        Ok(())
    }

    /// Takes the VAE means of a block, \[cells, K, D\], with its counts, \[cells\] in 0..=K.
    pub fn load_means(&mut self, tokens: &[f32], counts: &[i32]) -> Result<()> {
        let FixedKind::Vae { scale, bits, .. } = self.kind else {
            return Err(self.wrong_kind());
        };
        self.check(tokens.len(), counts)?;
        if tokens.iter().any(|x| !x.is_finite()) {
            return Err(Error::Model(
                "the encoder graph gave a token that is not a finite number; check the checkpoint and export the bundle again"
                    .into(),
            ));
        }
        let half = (1i32 << (bits - 1)) as f32;
        for (code, &x) in self.codes.iter_mut().zip(tokens) {
            let q = (x * scale).round().clamp(-half, half - 1.0) as i32;
            *code = q as u32 & ((1 << bits) - 1);
        }
        Ok(())
    }

    /// FSQ indices of the layers read or loaded, zero from each cell's count on; `counts` are cut at `layers`.
    pub fn store_indices(&self, layers: usize, tokens: &mut [i32], counts: &mut [i32]) -> Result<()> {
        self.store(layers, tokens, counts, |code| code as i32)
    }

    /// VAE means of the layers read or loaded, as the decoder graph gets them, zero from each cell's count on.
    pub fn store_means(&self, layers: usize, tokens: &mut [f32], counts: &mut [i32]) -> Result<()> {
        let FixedKind::Vae { scale, bits, .. } = self.kind else {
            return Err(self.wrong_kind());
        };
        self.store(layers, tokens, counts, |code| ((code << (32 - bits)) as i32 >> (32 - bits)) as f32 / scale)
    }

    /// Counts of the layers read or loaded, \[cells\], cut at `layers`.
    pub fn store_counts(&self, layers: usize, counts: &mut [i32]) {
        let end = self.bounds[layers.min(self.layers())] as i32;
        for (count, own) in counts.iter_mut().zip(&self.counts) {
            *count = (*own).min(end);
        }
    }

    fn store<T: Copy + Default>(
        &self,
        layers: usize,
        tokens: &mut [T],
        counts: &mut [i32],
        value: impl Fn(u32) -> T,
    ) -> Result<()> {
        if tokens.len() != self.codes.len() || counts.len() != self.cells {
            return Err(self.wrong_size(tokens.len()));
        }
        let (most, numbers) = (self.bounds[self.layers()], self.kind.numbers());
        self.store_counts(layers, counts);
        let cells = tokens.chunks_exact_mut(most * numbers).zip(self.codes.chunks_exact(most * numbers));
        for ((out, codes), count) in cells.zip(&*counts) {
            let used = *count as usize * numbers;
            for (out, &code) in out.iter_mut().zip(&codes[..used]) {
                *out = value(code);
            }
            out[used..].fill(T::default());
        }
        Ok(())
    }

    fn wrong_kind(&self) -> Error {
        Error::Model(format!("the graph's tokens are not of the kind {:?}; export the bundle again", self.kind))
    }

    fn wrong_size(&self, found: usize) -> Error {
        Error::Model(format!("{found} numbers where a block has {}; the graph does not match the manifest", self.codes.len()))
    }

    fn check(&mut self, found: usize, counts: &[i32]) -> Result<()> {
        let most = self.bounds[self.layers()];
        if found != self.codes.len() || counts.len() != self.cells {
            return Err(self.wrong_size(found));
        }
        if let Some(n) = counts.iter().find(|n| usize::try_from(**n).map_or(true, |n| n > most)) {
            return Err(Error::Settings(format!("a count of {n} for cells of {most} tokens; give 0..={most}")));
        }
        self.counts.copy_from_slice(counts);
        Ok(())
    }

    /// Appends the segment of `layer` (0..L) of the loaded block to `out`. Appends nothing where no cell has tokens in it;
    /// then no cell has any in the layers after it.
    pub fn write_segment(&mut self, layer: usize, out: &mut Vec<u8>) -> Result<()> {
        if let Some(&[from, _]) = self.bounds.get(layer..layer + 2)
            && self.counts.iter().all(|&n| n as usize <= from)
        {
            return Ok(());
        }
        let mut contexts = self.fresh();
        let mut coder = RangeEncoder::new(&mut contexts, out);
        self.code_layer(layer, &mut coder)?;
        coder.finish();
        self.contexts = contexts;
        Ok(())
    }

    /// Reads the segment of `layer`; layer 0 begins a block, the others must follow in order.
    pub fn read_segment(&mut self, layer: usize, data: &[u8]) -> Result<()> {
        if layer == 0 {
            self.counts.fill(0);
        }
        let mut contexts = self.fresh();
        let mut coder = RangeDecoder::new(&mut contexts, data);
        let result = self.code_layer(layer, &mut coder);
        let consumed = coder.consumed();
        self.contexts = contexts;
        result?;
        if !consumed {
            return Err(Error::Malformed(format!("layer {layer} has bytes after its last token; wait for the next block")));
        }
        Ok(())
    }

    fn fresh(&mut self) -> Vec<Context> {
        let mut contexts = std::mem::take(&mut self.contexts);
        contexts.clear();
        contexts.resize(CONTEXTS, Context::new(1 << 15, 2, 128));
        contexts
    }

    fn code_layer<C: BitCoder>(&mut self, layer: usize, coder: &mut C) -> Result<()> {
        let Some(&[from, to]) = self.bounds.get(layer..layer + 2) else {
            return Err(Error::Malformed(format!("layer {layer} of {}; wait for the next block", self.layers())));
        };
        let (most, numbers, width) = (self.bounds[self.layers()], self.kind.numbers(), to - from);
        for cell in 0..self.cells {
            if (self.counts[cell] as usize) < from {
                continue;
            }
            let part = |n: i32| (n as usize).clamp(from, to) - from;
            let state = |n: usize| usize::from(n > 0) + usize::from(n == width);
            let left = if cell % self.cells_x > 0 { state(part(self.counts[cell - 1])) } else { 1 };
            let top = if cell >= self.cells_x { state(part(self.counts[cell - self.cells_x])) } else { 1 };
            let context = 3 * left + top;
            let wanted = part(self.counts[cell]);
            let n = if coder.bit(context, wanted > 0) {
                if width == 1 || coder.bit(9 + context, wanted == width) {
                    width
                } else {
                    1 + code_uniform(coder, wanted.wrapping_sub(1) as u32, width as u64 - 1) as usize
                }
            } else {
                0
            };
            // an encoder's cell may have tokens in later layers
            if C::DECODES {
                self.counts[cell] = (from + n) as i32;
            }
            let first = (cell * most + from) * numbers;
            for code in &mut self.codes[first..first + n * numbers] {
                *code = match self.kind {
                    FixedKind::Fsq { codes } => code_uniform(coder, *code, codes),
                    FixedKind::Vae { bits, .. } => coder.bypass(*code, bits),
                };
            }
            if C::DECODES && coder.exhausted() {
                return Err(Error::Malformed(format!("layer {layer} ends before its tokens do; wait for the next block")));
            }
        }
        Ok(())
    }
}

/// One of `total` (1..=2^32) equally likely values.
fn code_uniform<C: BitCoder>(coder: &mut C, value: u32, total: u64) -> u32 {
    if total <= 1 << 16 {
        return coder.uniform(value, total as u32);
    }
    let high_total = total.div_ceil(1 << 16) as u32;
    let high = coder.uniform(value >> 16, high_total);
    let low_total = (total - (u64::from(high) << 16)).min(1 << 16) as u32;
    high << 16 | coder.uniform(value & 0xffff, low_total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(seed: u64, i: usize) -> u32 {
        (seed.wrapping_add(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29) as u32
    }

    proptest! {
        #[test]
        fn indices_round_trip(
            seed in any::<u64>(), codes in prop::sample::select(vec![1u64, 2, 64_000, 65_536, 65_537, 1 << 32]),
            layers in prop::sample::select(vec![vec![7usize], vec![1, 2, 7], vec![3, 7]]), cut in 1usize..4,
        ) {
            let mut a = FixedCoder::new(FixedKind::Fsq { codes }, 4, 3, &layers).expect("valid");
            let mut b = FixedCoder::new(FixedKind::Fsq { codes }, 4, 3, &layers).expect("valid");
            let tokens: Vec<i32> = (0..84).map(|i| (u64::from(noise(seed, i)) % codes) as u32 as i32).collect();
            let counts: Vec<i32> = (0..12).map(|i| (noise(seed, 900 + i) % 10).min(7) as i32).collect();
            a.load_indices(&tokens, &counts).expect("in range");
            for layer in 0..layers.len().min(cut) {
                let mut out = Vec::new();
                a.write_segment(layer, &mut out).expect("writes");
                b.read_segment(layer, &out).expect("reads");
            }
            let (mut x, mut y, mut nx, mut ny) = (vec![5; 84], vec![6; 84], vec![0; 12], vec![0; 12]);
            a.store_indices(cut, &mut x, &mut nx).expect("sizes fit");
            b.store_indices(cut, &mut y, &mut ny).expect("sizes fit");
            prop_assert_eq!((&x, &nx), (&y, &ny));
            if cut >= layers.len() {
                prop_assert_eq!(&nx, &counts);
                for (i, v) in x.iter().enumerate() {
                    prop_assert_eq!(*v, if (i as i32 % 7) < counts[i / 7] { tokens[i] } else { 0 });
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..80), bits in 1u32..=16) {
            let kind = FixedKind::Vae { dimensions: 3, scale: 4.0, bits };
            let mut coder = FixedCoder::new(kind, 4, 3, &[2, 6]).expect("valid");
            let (mut x, mut n) = (vec![0.0; 216], vec![0; 12]);
            for layer in 0..2 {
                if coder.read_segment(layer, &data).is_err() { break }
                coder.store_means(layer + 1, &mut x, &mut n).expect("sizes fit");
                prop_assert!(n.iter().all(|n| (0..=6).contains(n)));
            }
        }
    }

    #[test]
    fn means_are_rounded_and_cut() {
        let kind = FixedKind::Vae { dimensions: 2, scale: 8.0, bits: 6 };
        let mut a = FixedCoder::new(kind, 1, 1, &[2]).expect("valid");
        a.load_means(&[0.3, -0.3, 100.0, -100.0], &[2]).expect("sizes fit");
        let mut out = Vec::new();
        a.write_segment(0, &mut out).expect("writes");
        assert!(out.len() <= 5, "{} bytes for 24 bits", out.len());
        let mut b = FixedCoder::new(kind, 1, 1, &[2]).expect("valid");
        b.read_segment(0, &out).expect("reads");
        let (mut x, mut n) = ([9.0; 4], [0]);
        b.store_means(1, &mut x, &mut n).expect("sizes fit");
        assert_eq!((x, n), ([0.25, -0.25, 31.0 / 8.0, -4.0], [2]));
    }

    #[test]
    fn wrong_settings_are_refused() {
        let fsq = FixedKind::Fsq { codes: 10 };
        assert!(FixedCoder::new(FixedKind::Fsq { codes: 0 }, 1, 1, &[1]).is_err());
        assert!(FixedCoder::new(FixedKind::Vae { dimensions: 1, scale: 0.0, bits: 4 }, 1, 1, &[1]).is_err());
        assert!(FixedCoder::new(FixedKind::Vae { dimensions: 1, scale: 1.0, bits: 17 }, 1, 1, &[1]).is_err());
        assert!(FixedCoder::new(fsq, 1, 1, &[2, 2]).is_err());
        assert!(matches!(FixedCoder::new(fsq, 1 << 20, 1 << 20, &[8]), Err(Error::Limit(_))));
        let mut coder = FixedCoder::new(fsq, 2, 1, &[4]).expect("valid");
        assert!(matches!(coder.load_indices(&[10; 8], &[1, 1]), Err(Error::Model(_))));
        assert!(matches!(coder.load_indices(&[1; 8], &[5, 1]), Err(Error::Settings(_))));
        assert!(coder.load_indices(&[1; 7], &[1, 1]).is_err());
        assert!(coder.load_means(&[1.0; 8], &[1, 1]).is_err());
        assert!(coder.write_segment(1, &mut Vec::new()).is_err());
    }
}
