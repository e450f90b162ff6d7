// SPDX-License-Identifier: MIT OR Apache-2.0
//! The neighbourhood: what encoder and decoder both know of a block's cells while they code it. It has the indices so far, the
//! counts, and classes of the coefficients before.

use super::contexts::{COARSE, DENSITIES, INNER, MAGNITUDES, OUTER};
use super::counts::{CountContext, count_context, hint};
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
const INNER_CLASS: [u8; 64] = classes(&[1, 2, 3, 5, 7, 10, 14]);

/// What a class adds to the number of a zero flag's context.
static INNER_STEP: [u8; 64] = {
    let (mut out, mut i) = ([0; 64], 0);
    while i < 64 {
        out[i] = INNER_CLASS[i] * (OUTER * DENSITIES) as u8;
        i += 1;
    }
    out
};

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

    /// The context of the count of the cell at a place in a layer; `base_hint`: the hint in layer 0, which has no layer before it.
    pub fn count_context(&self, place: usize, layer: usize, base_hint: usize) -> CountContext {
        let (counts, pitch) = (&self.counts[layer], self.pitch);
        let hint = match layer.checked_sub(1).map(|before| &self.counts[before]) {
            Some(before) => hint(before[place], before[place + 1], before[place + pitch], self.extents[place] > 0),
            None => base_hint,
        };
        count_context([counts[place - 1], counts[place - pitch], counts[place - pitch - 1], counts[place - pitch + 1]], hint)
    }

    /// The cells before the one at a place.
    pub fn around(&self, place: usize) -> Around<'_> {
        let places = [place - 1, place - self.pitch, place - self.pitch - 1, place - self.pitch + 1];
        let c = self.coefficients;
        let extent = places.iter().fold(0, |most, p| self.extents[*p].max(most));
        Around { values: places.map(|p| &self.values[p * c..(p + 1) * c]), extent: extent.into() }
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

/// The cells before a cell that its contexts depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around<'a> {
    /// Indices of all coefficients: to the left, above, above to the left and to the right.
    pub values: [&'a [i16]; 4],
    /// From here on they are all zero.
    pub extent: usize,
}

/// The neighbourhood of the coefficients of one cell.
#[derive(Debug, Clone, Default)]
pub(super) struct Neighbourhood {
    /// Lower byte: sums over earlier coefficients of the cell. Upper byte: sums of magnitudes, of the cells around too.
    inner: Vec<u16>,
    /// The part of a zero flag's context that depends on the position alone, and with the cells around.
    bases: Vec<u16>,
    flags: Vec<u16>,
    /// The part of `inner` that depends on the cells around.
    around: Vec<u16>,
    /// Coefficients whose cells around were looked at, and those of them that `inner` knows of.
    known: usize,
    ready: usize,
    /// Significant coefficients of the cell so far, their class 0..3, and where the next one begins.
    significant: usize,
    density: usize,
    limits: [usize; DENSITIES],
}

/// Cells around are looked at for so many coefficients at a time.
const STRIDE: usize = 64;

impl Neighbourhood {
    /// `classes`: of the coefficients' positions.
    pub fn new(layout: &NestedLayout, classes: &[u8]) -> Self {
        let zeros = vec![0; layout.coefficients];
        let bases: Vec<u16> = classes.iter().map(|class| u16::from(*class) * (INNER * OUTER * DENSITIES) as u16).collect();
        Self { inner: zeros.clone(), around: zeros, flags: bases.clone(), bases, ..Self::default() }
    }

    /// Begins a cell.
    pub fn begin(&mut self, intra: bool) {
        self.limits = if intra { [4, 12, usize::MAX] } else { [2, 6, usize::MAX] };
        self.known = 0;
        self.again();
    }

    /// Begins the same cell again.
    pub fn again(&mut self) {
        (self.significant, self.density, self.ready) = (0, 0, 0);
    }

    /// Looks at the cells around, for the coefficients below `end`: classes of others cannot be asked for.
    #[inline]
    pub fn reach(&mut self, cells: Around<'_>, end: usize) {
        if end > self.ready {
            self.extend(cells, end);
        }
    }

    fn extend(&mut self, cells: Around<'_>, end: usize) {
        if self.ready == 0 {
            // not before: most cells have no tokens
            self.inner.fill(0);
        }
        let c = self.inner.len();
        let end = end.next_multiple_of(STRIDE).min(c);
        let start = self.known;
        if end > start {
            let filled = cells.extent.clamp(start, end);
            let of = cells.values.map(|values| &values[start..filled]);
            look_around(of, &self.bases[start..filled], &mut self.flags[start..filled], &mut self.around[start..filled]);
            self.flags[filled..end].copy_from_slice(&self.bases[filled..end]);
            self.around[filled..end].fill(0);
            self.known = end;
        }
        let range = self.ready..end;
        self.inner[range.clone()].iter_mut().zip(&self.around[range]).for_each(|(inner, around)| *inner += *around);
        self.ready = end;
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
    fn classes(&self, i: usize) -> (usize, usize) {
        let outer = (self.flags[i] - self.bases[i]) / DENSITIES as u16;
        (usize::from(INNER_CLASS[usize::from(self.inner[i] & 63)]), usize::from(outer))
    }

    /// The context of a zero flag among those of [`Set::zero`](super::contexts::Set::zero): by the position, the classes above, and how many
    /// significant coefficients the cell has so far.
    #[inline]
    pub fn zero_flag(&self, i: usize) -> usize {
        zero_flag(self.flags[i], self.inner[i], self.density)
    }

    /// [`zero_flag`](Self::zero_flag) of each coefficient of a range.
    #[inline]
    pub fn zero_flags(&self, range: std::ops::Range<usize>) -> impl Iterator<Item = usize> {
        let density = self.density;
        self.flags[range.clone()].iter().zip(&self.inner[range]).map(move |(flag, inner)| zero_flag(*flag, *inner, density))
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

#[inline(always)]
fn zero_flag(flag: u16, inner: u16, density: usize) -> usize {
    usize::from(flag) + usize::from(INNER_STEP[usize::from(inner & 63)]) + density
}

/// What the cells to the left, above, above to the left and above to the right say of some coefficients. A function of its own, so that it is
/// vectorised.
#[inline(never)]
fn look_around([left, top, top_left, top_right]: [&[i16]; 4], bases: &[u16], flags: &mut [u16], around: &mut [u16]) {
    let cells = left.iter().zip(top).zip(top_left).zip(top_right);
    for ((((((l, t), tl), tr), base), flag), around) in cells.zip(bases).zip(flags).zip(around) {
        let [l, t, tl, tr] = [l, t, tl, tr].map(|v| (*v).clamp(-OUTER_LIMIT, OUTER_LIMIT).abs());
        *around = ((2 * (l + t) + tl + tr) as u16) << 8;
        let [l, t, tl, tr] = [l, t, tl, tr].map(|v| v.min(CLIP));
        let few = 2 * (l + t) + tl + tr;
        let outer = u16::from(few >= 1) + u16::from(few >= 2) + u16::from(few >= 4);
        *flag = base + outer * DENSITIES as u16;
    }
}
