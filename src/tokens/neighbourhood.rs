// SPDX-License-Identifier: MIT OR Apache-2.0
//! The neighbourhood: what encoder and decoder both know of a block's cells while they code it. It has the indices so far, the
//! counts, and classes of the coefficients before.

use super::contexts::{COARSE, DENSITIES, MAGNITUDES, OUTER};
use super::step::{Part, Predictions};
use super::{MAX_NESTED_LAYERS, NestedLayout, TransformSize};

/// A coefficient counts in its neighbourhood with its magnitude, up to this.
const CLIP: i16 = 2;
/// The same in the sum that chooses contexts of magnitudes, of the same cell and of those around.
const INNER_LIMIT: i32 = 7;
const OUTER_LIMIT: i16 = 15;

/// For each sum below N, how many of the rising `limits` it reaches: its class.
const fn classes<const N: usize>(limits: &[usize]) -> [u8; N] {
    let (mut out, mut i) = ([0; N], 0);
    while i < N {
        let mut k = 0;
        while k < limits.len() {
            out[i] += (i >= limits[k]) as u8;
            k += 1;
        }
        i += 1;
    }
    out
}

/// Classes of the weighted sum of earlier coefficients of the cell.
static INNER_CLASS: [u8; 64] = classes(&[1, 2, 3, 5, 7, 10, 14]);

const MAGNITUDE_LIMITS: [usize; MAGNITUDES - 1] = [1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 28, 36, 48, 70];
/// Class of the weighted sum of magnitudes around a coefficient.
static MAGNITUDE_CLASS: [u8; 256] = classes(&MAGNITUDE_LIMITS);

/// State of all cells. Cells lie in a grid with a border of one on every side; `place` is an index into that grid.
#[derive(Debug, Clone)]
pub(super) struct BlockState {
    coefficients: usize,
    pitch: usize,
    /// Signed indices in the current layer; before a coefficient is coded, the one that the layer before suggests.
    pub values: Vec<i16>,
    /// Tokens of each layer.
    pub counts: [Vec<u16>; MAX_NESTED_LAYERS],
    /// 1 + last significant coefficient.
    pub extents: Vec<u16>,
    /// Transform sizes, of cells that have tokens.
    pub sizes: Vec<Option<TransformSize>>,
}

impl BlockState {
    pub fn new(layout: &NestedLayout) -> Self {
        let pitch = layout.cells_x + 2;
        let places = pitch * (layout.cells_y + 2);
        Self {
            coefficients: layout.coefficients,
            pitch,
            values: vec![0; places * layout.coefficients],
            counts: std::array::from_fn(|layer| vec![0; if layer < layout.layers { places } else { 0 }]),
            extents: vec![0; places],
            sizes: vec![None; places],
        }
    }

    #[inline]
    pub fn place(&self, x: usize, y: usize) -> usize {
        (y + 1) * self.pitch + x + 1
    }

    #[inline]
    pub fn pitch(&self) -> usize {
        self.pitch
    }

    /// Forgets the block; touches only what was used.
    pub fn clear(&mut self) {
        for (place, extent) in self.extents.iter_mut().enumerate() {
            // even an empty fill would touch memory that was never used
            if *extent > 0 {
                let first = place * self.coefficients;
                self.values[first..first + usize::from(std::mem::take(extent))].fill(0);
            }
        }
        self.sizes.fill(None);
        for counts in &mut self.counts {
            counts.fill(0);
        }
    }

    #[inline]
    pub fn value(&self, place: usize, i: usize) -> i32 {
        i32::from(self.values[place * self.coefficients + i])
    }

    /// Sets a value; a new significant coefficient too.
    #[inline]
    pub fn set(&mut self, place: usize, i: usize, value: i32) {
        self.values[place * self.coefficients + i] = value as i16;
        self.extents[place] = self.extents[place].max(i as u16 + 1);
    }

    /// Moves a cell to the next layer: every significant coefficient gets the index that is assumed there.
    pub fn promote(&mut self, place: usize, parts: &[Part], predictions: &Predictions) {
        let first = place * self.coefficients;
        for (value, part) in self.values[first..first + usize::from(self.extents[place])].iter_mut().zip(parts) {
            if *value != 0 {
                *value = predictions.of(*part).assumed(*value);
            }
        }
    }
}

/// The neighbourhood of the coefficients of one cell.
#[derive(Debug, Clone, Default)]
pub(super) struct Neighbourhood {
    /// Lower byte: sums over earlier coefficients of the cell. Upper byte: sums of magnitudes, of the cells around too.
    inner: Vec<u16>,
    /// Classes 0..4 of the same coefficient in the cells around.
    outer: Vec<u8>,
    /// Significant coefficients of the cell so far, their class 0..3, and where the next one begins.
    significant: usize,
    density: usize,
    limits: [usize; DENSITIES],
}

impl Neighbourhood {
    pub fn new(layout: &NestedLayout) -> Self {
        Self { inner: vec![0; layout.coefficients], outer: vec![0; layout.coefficients], ..Self::default() }
    }

    /// Begins a cell of which the first `count` coefficients are coded. `values` and `extents` are of the whole grid; of the cells
    /// around, only those before in raster order take part.
    pub fn begin(&mut self, values: &[i16], extents: &[u16], pitch: usize, place: usize, count: usize, intra: bool) {
        let c = self.inner.len();
        (self.significant, self.density) = (0, 0);
        self.limits = if intra { [4, 12, usize::MAX] } else { [2, 6, usize::MAX] };
        self.inner.fill(0);
        let around = [place - 1, place - pitch, place - pitch - 1, place - pitch + 1];
        if around.iter().all(|p| extents[*p] == 0) {
            self.outer[..count].fill(0);
            return;
        }
        let [left, top, top_left, top_right] = around.map(|p| &values[p * c..p * c + count]);
        let sums = self.outer[..count].iter_mut().zip(&mut self.inner[..count]);
        for (((((outer, inner), &l), &t), &tl), &tr) in sums.zip(left).zip(top).zip(top_left).zip(top_right) {
            let sum = |limit: i16| {
                let clipped = |v: i16| v.clamp(-limit, limit).abs();
                2 * (clipped(l) + clipped(t)) + clipped(tl) + clipped(tr)
            };
            let few = sum(CLIP);
            *outer = u8::from(few >= 1) + u8::from(few >= 2) + u8::from(few >= 4);
            *inner = (sum(OUTER_LIMIT) as u16) << 8;
        }
    }

    /// Coefficient `i` has magnitude `magnitude` >= 1.
    #[inline]
    pub fn add(&mut self, layout: &NestedLayout, i: usize, magnitude: i32) {
        self.significant += 1;
        self.density += usize::from(self.significant == self.limits[self.density]);
        // weights sum to 22 at most, so neither byte overflows
        let both = magnitude.min(i32::from(CLIP)) as u16 | (magnitude.min(INNER_LIMIT) as u16) << 8;
        for &(j, weight) in layout.links(i) {
            self.inner[usize::from(j)] += u16::from(weight) * both;
        }
    }

    /// (class 0..8 of the coefficients before in the cell, class 0..4 of the cells around) of a coefficient.
    #[inline]
    pub fn classes(&self, i: usize) -> (usize, usize) {
        (usize::from(INNER_CLASS[usize::from(self.inner[i] & 63)]), usize::from(self.outer[i]))
    }

    /// Class 0..96 of all that a zero flag depends on besides the position: the classes above, and how many significant
    /// coefficients the cell has so far.
    #[inline]
    pub fn zero_class(&self, i: usize) -> usize {
        let (inner, outer) = self.classes(i);
        (inner * OUTER + outer) * DENSITIES + self.density
    }

    /// Class 0..16 that chooses the context of a magnitude of 1 or 2.
    #[inline]
    pub fn size_class(&self, i: usize) -> usize {
        let (inner, outer) = self.classes(i);
        2 * inner + usize::from(outer > 1)
    }

    /// Class 0..16 of the magnitudes around.
    #[inline]
    pub fn magnitude_class(&self, i: usize) -> usize {
        usize::from(MAGNITUDE_CLASS[usize::from(self.inner[i] >> 8)])
    }

    /// Class 0..4 of the whole neighbourhood, for rarer symbols.
    #[inline]
    pub fn coarse_class(&self, i: usize) -> usize {
        let (inner, outer) = self.classes(i);
        (inner + outer).div_ceil(2).min(COARSE - 1)
    }
}
