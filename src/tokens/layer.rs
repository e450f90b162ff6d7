// SPDX-License-Identifier: MIT OR Apache-2.0
//! The syntax of one layer of a cell, written once for encoder, decoder and statistics.

use super::contexts::{MORE, PREFIX, Set, UNARY};
use super::motion::INTRA;
use super::neighbourhood::{BlockState, Neighbourhood};
use super::step::{LayerSteps, Part, Predictions};
use super::transform::code_size;
use super::{NestedLayout, TransformSize, counts};
use crate::entropy::BitCoder;
use crate::{Error, Result};

/// Largest magnitude of an index or difference: the most that 16-bit latents can need.
const MAX_MAGNITUDE: u32 = 32_767;

/// What an encoder codes in a layer: the signed quantisation index of every coefficient, and 1 + the place in token order of the
/// last that is not zero, by place of the cell; and the transform size of each cell that has tokens in this layer or one before.
#[derive(Debug, Default, Clone)]
pub(super) struct ChosenLayer {
    pub values: Vec<i16>,
    pub extents: Vec<u16>,
    pub sizes: Vec<Option<TransformSize>>,
}

impl ChosenLayer {
    /// Sets the indices of all cells, of `coefficients` each, to zero.
    pub fn clear(&mut self, coefficients: usize) {
        for (place, extent) in self.extents.iter_mut().enumerate() {
            // even an empty fill would touch memory that was never used
            if *extent > 0 {
                self.values[place * coefficients..][..usize::from(std::mem::take(extent))].fill(0);
            }
        }
    }
}

/// What stays the same within a layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer<'a> {
    pub layout: &'a NestedLayout,
    pub classes: &'a [u8],
    pub steps: LayerSteps,
    pub index: usize,
    /// Motion planes dy, dx, mode; `None` in a key block, where every cell is intra.
    pub motion: Option<&'a [i32]>,
}

impl Layer<'_> {
    pub fn set(&self, cell: usize) -> Set {
        Set::new(self.index, self.intra(cell))
    }

    /// The parts that a cell's coefficients belong to, in token order.
    pub fn parts(&self, cell: usize) -> &[Part] {
        self.layout.parts_of(self.intra(cell))
    }

    /// From the indices of the layer before; `None` in layer 0.
    pub fn predictions(&self) -> Option<Predictions> {
        (self.index > 0).then(|| self.steps.prediction(self.index))
    }

    pub fn intra(&self, cell: usize) -> bool {
        self.motion.is_none_or(|m| m[2 * self.layout.cells() + cell] == INTRA)
    }

    /// 0: no motion, 1: slow, 2: fast, 3: intra.
    pub fn hint(&self, cell: usize) -> usize {
        let Some(m) = self.motion else { return 0 };
        let cells = self.layout.cells();
        if m[2 * cells + cell] == INTRA {
            return 3;
        }
        match m[cell].abs() + m[cells + cell].abs() {
            0 => 0,
            1..=7 => 1,
            _ => 2,
        }
    }
}

/// Codes one layer of all cells. An encoder passes what it chose, a decoder `None`.
pub(super) fn code_layer<C: BitCoder>(
    coder: &mut C,
    layer: Layer<'_>,
    state: &mut BlockState,
    around: &mut Neighbourhood,
    chosen: Option<&ChosenLayer>,
) -> Result<()> {
    let (layout, predictions) = (layer.layout, layer.predictions());
    for y in 0..layout.cells_y {
        for x in 0..layout.cells_x {
            let place = state.place(x, y);
            if let Some(predictions) = &predictions {
                state.promote(place, layer.parts(y * layout.cells_x + x), predictions);
            }
            code_cell(coder, layer, predictions.as_ref(), state, around, place, y * layout.cells_x + x, chosen)?;
        }
        if C::DECODES && coder.exhausted() {
            return Err(Error::Malformed(format!("layer {} ends before its cells do; wait for the next block", layer.index)));
        }
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "hot: everything is at hand where it is called")]
fn code_cell<C: BitCoder>(
    coder: &mut C,
    layer: Layer<'_>,
    predictions: Option<&Predictions>,
    state: &mut BlockState,
    around: &mut Neighbourhood,
    place: usize,
    cell: usize,
    chosen: Option<&ChosenLayer>,
) -> Result<()> {
    let (layout, l, c) = (layer.layout, layer.index, layer.layout.coefficients);
    let intra = layer.intra(cell);
    let set = layer.set(cell);
    let wanted: &[i16] = chosen.map_or(&[], |t| &t.values[place * c..(place + 1) * c]);
    let want = |i: usize| if C::DECODES { 0 } else { wanted.get(i).map_or(0, |k| i32::from(*k)) };
    let separate = |i: usize| l == 0 && intra && layout.constant[i];
    if l == 0 && intra {
        for &i in &layout.constants {
            code_constant(coder, layer, state, set, cell, i, want(i))?;
        }
    }
    let mut count = 0;
    if let Some(t) = chosen {
        count = usize::from(t.extents[place].max(state.extents[place]));
        while count > 0 && (want(count - 1) == state.value(place, count - 1) || separate(count - 1)) {
            count -= 1;
        }
    }
    let context = state.count_context(place, l, layer.hint(cell));
    let count = counts::code_count(coder, set, context, count as u16, c)
        .ok_or_else(|| Error::Malformed(format!("a cell has more than {c} tokens; wait for the next block")))?;
    if count == 0 {
        return Ok(());
    }
    state.counts[l][place] = count;
    if layout.luma.is_some() && state.sizes[place].is_none() {
        let wanted = chosen.and_then(|t| t.sizes[place]).unwrap_or_default();
        let size = code_size(coder, set, state.sizes[place - 1], state.sizes[place - state.pitch()], wanted);
        state.sizes[place] = Some(size);
    }
    let count = usize::from(count);
    around.begin(intra);
    around.reach(state.around(place), count);
    for i in 0..count {
        let (assumed, last) = (state.value(place, i), i + 1 == count);
        let class = layer.classes[i];
        if separate(i) {
            if assumed != 0 {
                around.add(layout, i, assumed.abs());
            }
        } else if assumed != 0 {
            let (m, coarse_class) = (want(i), around.coarse_class(i));
            let before = predictions.map_or(0, |p| p.of(layout.parts_of(intra)[i]).before(assumed));
            if last || coder.bit(set.middle(before, class, coarse_class), m != assumed) {
                // towards and beyond zero counts as down
                let change = (m - assumed) * assumed.signum();
                let up = coder.bit(set.upper(before, class, coarse_class), change > 0);
                let size = 1 + code_beyond(coder, set, false, change.unsigned_abs().wrapping_sub(1))?;
                let value = assumed.abs() + if up { size } else { -size };
                state.set(place, i, limited(value) * assumed.signum());
            }
            around.add(layout, i, assumed.abs());
        } else {
            let m = want(i);
            if !last && !coder.bit(set.zero(around.zero_flag(i)), m != 0) {
                continue;
            }
            let negative = coder.bypass(u32::from(m < 0), 1) == 1;
            let magnitude = if l == 0 {
                code_magnitude(coder, set, layout.chroma[i], around.magnitude_class(i), m.unsigned_abs())?
            } else {
                match coder.bit(set.two(class, around.size_class(i)), m.abs() > 1) {
                    true => 2 + code_beyond(coder, set, true, m.unsigned_abs().wrapping_sub(2))?,
                    false => 1,
                }
            };
            state.set(place, i, limited(if negative { -magnitude } else { magnitude }));
            around.add(layout, i, magnitude);
        }
        if C::DECODES && i % 64 == 63 && coder.exhausted() {
            return Err(Error::Malformed("a cell has more tokens than bytes; wait for the next block".into()));
        }
    }
    Ok(())
}

/// A magnitude >= 1: unary in contexts, then an escape.
fn code_magnitude<C: BitCoder>(coder: &mut C, set: Set, chroma: bool, class: usize, magnitude: u32) -> Result<i32> {
    let mut found = 1;
    while found <= UNARY as u32 {
        if !coder.bit(set.larger(chroma, class, found as usize - 1), magnitude > found) {
            return Ok(found as i32);
        }
        found += 1;
    }
    code_escape(coder, set.escape(), PREFIX - 1, magnitude.wrapping_sub(found)).map(|rest| (rest + found) as i32)
}

fn limited(value: i32) -> i32 {
    value.clamp(-i32::from(i16::MAX), i32::from(i16::MAX))
}

/// How far a size is above its minimum.
fn code_beyond<C: BitCoder>(coder: &mut C, set: Set, new: bool, size: u32) -> Result<i32> {
    for found in 0..MORE as u32 {
        if !coder.bit(set.beyond(new) + found as usize, size > found) {
            return Ok(found as i32);
        }
    }
    code_escape(coder, set.escape(), PREFIX - 1, size.wrapping_sub(MORE as u32)).map(|rest| (rest + MORE as u32) as i32)
}

/// A number >= 0: Exp-Golomb, its prefix of at most `longest` ones in as many contexts from `contexts` on.
pub(super) fn code_escape<C: BitCoder>(coder: &mut C, contexts: usize, longest: usize, value: u32) -> Result<u32> {
    let wanted = value.wrapping_add(1);
    let mut bits = 0;
    while bits < longest && coder.bit(contexts + bits, wanted >> (bits + 1) != 0) {
        bits += 1;
    }
    let low = coder.bypass(wanted & ((1 << bits) - 1), bits as u32);
    let found = (1 << bits | low) - 1;
    if found > MAX_MAGNITUDE - UNARY as u32 - 1 {
        return Err(Error::Malformed(format!("a magnitude of {found}; wait for the next block")));
    }
    Ok(found)
}

/// The constant term of an intra cell in layer 0: the difference from its prediction by the cells before.
fn code_constant<C: BitCoder>(
    coder: &mut C,
    layer: Layer<'_>,
    state: &mut BlockState,
    set: Set,
    cell: usize,
    i: usize,
    wanted: i32,
) -> Result<()> {
    let (place, pitch) = (layer.layout.place(cell), state.pitch());
    let near = [place - 1, place - pitch, place - pitch - 1];
    let (prediction, contexts) = predict_constant(layer, set, cell, i, |n| state.value(near[n], i));
    let difference = wanted - prediction;
    let mut value = prediction;
    if coder.bit(contexts, difference != 0) {
        let negative = coder.bypass(u32::from(difference < 0), 1) == 1;
        let size = 1 + code_escape(coder, contexts + 1, PREFIX - 1, difference.unsigned_abs().wrapping_sub(1))? as i32;
        value += if negative { -size } else { size };
    }
    if value.unsigned_abs() > MAX_MAGNITUDE {
        return Err(Error::Malformed(format!("a constant term of {value}; wait for the next block")));
    }
    if value != 0 {
        state.set(place, i, value);
    }
    Ok(())
}

/// The prediction of constant term `i` of an intra cell from those to the left, above and above to the left, `value` by their number; and
/// the first of the contexts of the difference.
pub(super) fn predict_constant(layer: Layer<'_>, set: Set, cell: usize, i: usize, value: impl Fn(usize) -> i32) -> (i32, usize) {
    let width = layer.layout.cells_x;
    let (beside, below) = (!cell.is_multiple_of(width), cell >= width);
    let known = |inside: bool, back: usize, n: usize| (inside && layer.intra(cell - back)).then(|| value(n));
    let (left, top, corner) = (known(beside, 1, 0), known(below, width, 1), known(beside && below, width + 1, 2));
    let (prediction, roughness) = match (left, top, corner) {
        (Some(l), Some(t), Some(c)) => {
            let gradient = if c >= l.max(t) {
                l.min(t)
            } else if c <= l.min(t) {
                l.max(t)
            } else {
                l + t - c
            };
            let rough = (l - c).abs() + (t - c).abs();
            (gradient, if rough == 0 { 0 } else { 1 + usize::from(rough > 3) })
        }
        (Some(l), Some(t), None) => ((l + t) / 2, 2),
        (Some(v), None, _) | (None, Some(v), _) => (v, 2),
        _ => (0, 2),
    };
    (prediction, set.constant(layer.layout.chroma[i], roughness))
}
