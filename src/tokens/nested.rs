// SPDX-License-Identifier: MIT OR Apache-2.0
//! Encoder and decoder of the `nested` bottleneck: latents in, segments out, and back.

use super::contexts::{CONTEXTS, MOTION, Set};
use super::layer::{ChosenLayer, Layer, code_layer};
use super::motion::INTRA;
use super::neighbourhood::{BlockState, Neighbourhood};
use super::quantise::{Decider, Workspace};
use super::refine::Refiner;
use super::step::{LayerSteps, Reconstruction};
use super::{Estimate, NestedLayout, Rdo, TransformSize, motion};
use crate::entropy::{BitCoder, Context, CostTable, RangeDecoder, RangeEncoder, Tables};
use crate::pair::Pair;
use crate::{Error, Result};

/// What encoder and decoder share.
#[derive(Debug)]
struct Common {
    layout: NestedLayout,
    tables: Tables,
    classes: Vec<u8>,
    groups: Vec<u8>,
    fresh: Vec<Context>,
    /// Contexts of layer 0 and motion as the block before left them.
    carried: Vec<Context>,
    state: BlockState,
    around: Neighbourhood,
    motion: Vec<i32>,
    scratch: Vec<u8>,
}

impl Common {
    fn new(layout: &NestedLayout, tables: &Tables) -> Result<Self> {
        if tables.len() != CONTEXTS {
            return Err(Error::Model(format!(
                "tables.bin has {} contexts, this build codes with {CONTEXTS}; export the bundle's tables again",
                tables.len()
            )));
        }
        let classes = layout.classes(tables.classes())?;
        let groups = classes.iter().map(|c| c / 4).collect();
        let fresh: Vec<_> = tables.contexts().collect();
        Ok(Self {
            state: BlockState::new(layout),
            around: Neighbourhood::new(layout),
            motion: vec![0; motion::PLANES * layout.cells()],
            scratch: vec![0; 2 * (layout.cells_x + 1)],
            layout: layout.clone(),
            tables: tables.clone(),
            classes,
            groups,
            carried: fresh.clone(),
            fresh,
        })
    }

    /// Where the cells lie in the grid of the state, in raster order.
    fn places(&self) -> impl Iterator<Item = usize> {
        (0..self.layout.cells()).map(|cell| self.state.place(cell % self.layout.cells_x, cell / self.layout.cells_x))
    }

    /// The latents of a cell, zero so far, from the indices of its first coefficients in token order.
    fn rebuild<T: From<i16>>(
        &self,
        reconstruction: &Reconstruction,
        indices: &[i16],
        size: Option<TransformSize>,
        latents: &mut [T],
    ) {
        let value = |(i, k): (usize, &i16)| (i, reconstruction.value(i32::from(*k), self.groups[i]) as i16);
        let coefficients = indices.iter().enumerate().filter(|(_, k)| **k != 0).map(value);
        let luma = self.layout.luma.as_ref().zip(size.filter(|s| *s != TransformSize::Size16));
        for (i, value) in coefficients.clone().filter(|(i, _)| luma.is_none_or(|(grid, _)| !grid.has(*i))) {
            latents[usize::from(self.layout.slots[i])] = T::from(value);
        }
        if let Some((grid, size)) = luma {
            grid.backward(size, coefficients, latents);
        }
    }

    /// Prepares contexts and state for a layer.
    fn begin(&mut self, key: bool, layer: usize, contexts: &mut [Context]) {
        let start = if layer > 0 || key { &self.fresh } else { &self.carried };
        let set = Set::both(layer);
        contexts[set.clone()].copy_from_slice(&start[set]);
        if layer == 0 {
            contexts[MOTION..].copy_from_slice(&start[MOTION..]);
            self.state.clear();
        }
    }

    /// Keeps what the next block starts from: `contexts` as layer 0 left them.
    fn commit(&mut self, contexts: &[Context]) {
        for range in [Set::both(0), MOTION..CONTEXTS] {
            self.carried[range.clone()].copy_from_slice(&contexts[range]);
        }
    }

    /// Codes a layer of a block with the values of `chosen`.
    fn code_layer<C: BitCoder>(
        &mut self,
        steps: LayerSteps,
        layer: usize,
        motion: Option<&[i32]>,
        chosen: &ChosenLayer,
        coder: &mut C,
    ) -> Result<()> {
        let Self { layout, classes, state, around, motion: own, scratch, .. } = self;
        if let (0, Some(motion)) = (layer, motion) {
            own.copy_from_slice(motion);
            motion::code_motion(coder, own, layout.cells_x, layout.cells_y, scratch)?;
        }
        code_layer(coder, Layer { layout, classes, steps, index: layer, motion }, state, around, Some(chosen))
    }
}

/// Quantises the latents of a block and writes its segments. Buffers are allocated once.
#[derive(Debug)]
pub struct NestedEncoder {
    common: Common,
    contexts: Vec<Context>,
    costs: CostTable,
    /// One for each layer.
    chosen: Vec<ChosenLayer>,
    work: Workspace,
    pair: Pair,
    steps: LayerSteps,
}

impl NestedEncoder {
    /// `tables` must have [`CONTEXTS`] contexts.
    pub fn new(layout: &NestedLayout, tables: &Tables) -> Result<Self> {
        let common = Common::new(layout, tables)?;
        let chosen = ChosenLayer {
            values: common.state.values.clone(),
            extents: common.state.extents.clone(),
            sizes: common.state.sizes.clone(),
        };
        Ok(Self {
            costs: CostTable::new(tables),
            contexts: common.fresh.clone(),
            common,
            chosen: vec![chosen; layout.layers],
            work: Workspace::default(),
            pair: Pair::single(),
            steps: LayerSteps::spaced(1, 0, 0),
        })
    }

    /// Examines latents on one or two of `threads` threads; the tokens are the same.
    pub fn with_threads(self, threads: usize) -> Result<Self> {
        Ok(Self { pair: Pair::new(threads, "elastictok-tokens")?, ..self })
    }

    /// Chooses all tokens of a block whose layers refine the same latents.
    ///
    /// `latents`: \[cells, C\] in raster order of cells; `steps`: 1..=L layers; `motion`: planes dy, dx, mode of the block,
    /// `None` for a key block. The result stays until the next call and can be written or dequantised. The estimate is of all bits,
    /// and of the errors when all layers are received.
    pub fn quantise(&mut self, latents: &[i16], steps: LayerSteps, motion: Option<&[i32]>, rdo: &Rdo) -> Result<Estimate> {
        self.begin_block(steps)?;
        let (mut bits, mut estimate) = (0.0, Estimate::default());
        for layer in 0..steps.depth() {
            estimate = self.quantise_layer(layer, latents, motion, rdo)?;
            bits += estimate.bits;
        }
        Ok(Estimate { bits, ..estimate })
    }

    /// Begins a block with `steps`, of 1..=L layers. Each of them is then given to [`quantise_layer`](Self::quantise_layer) or
    /// [`load_layer`](Self::load_layer).
    pub fn begin_block(&mut self, steps: LayerSteps) -> Result<()> {
        if steps.depth() > self.common.layout.layers {
            return Err(Error::Settings(format!("{} layers; the stream has 1..={}", steps.depth(), self.common.layout.layers)));
        }
        self.steps = steps;
        Ok(())
    }

    /// Chooses the tokens of one layer, after those of the layers before. `latents` are those of the residual after prediction from
    /// the reference of receivers of that many layers, so they do not drift. Arguments as in [`quantise`](Self::quantise).
    pub fn quantise_layer(&mut self, layer: usize, latents: &[i16], motion: Option<&[i32]>, rdo: &Rdo) -> Result<Estimate> {
        let common = &mut self.common;
        check_latents(&common.layout, latents.len())?;
        check_motion(&common.layout, motion)?;
        let Common { layout, tables, classes, groups, state, around, .. } = common;
        let layer = Layer { layout, classes, steps: self.steps, index: layer, motion };
        let decider = Decider::new(layer, groups, tables, &self.costs, rdo);
        let (coarser, finer) = self.chosen.split_at_mut(layer.index);
        Ok(match (layer.prediction(), coarser.last()) {
            (Some(prediction), Some(base)) => {
                Refiner { decider, prediction, base }.run(latents, &mut self.work, &self.pair, state, around, &mut finer[0])
            }
            _ => decider.run(latents, &mut self.work, &self.pair, state, around, &mut finer[0]),
        })
    }

    /// Sets the signed quantisation indices of one layer, \[cells, C\] in token order, instead of choosing them.
    pub fn load_layer(&mut self, layer: usize, indices: &[i16]) -> Result<()> {
        let c = self.common.layout.coefficients;
        if layer >= self.steps.depth() || indices.len() != self.common.layout.cells() * c || indices.contains(&i16::MIN) {
            return Err(Error::Settings(format!(
                "{} indices for layer {layer} of {}; give one from -32767 to 32767 for each of {c} coefficients of {} cells",
                indices.len(),
                self.steps.depth(),
                self.common.layout.cells()
            )));
        }
        let chosen = &mut self.chosen[layer];
        for (place, cell) in self.common.places().zip(indices.chunks_exact(c)) {
            chosen.values[place * c..(place + 1) * c].copy_from_slice(cell);
            chosen.extents[place] = cell.iter().rposition(|k| *k != 0).map_or(0, |i| i as u16 + 1);
        }
        Ok(())
    }

    /// Sets the transform sizes of all cells, \[cells\], instead of choosing them. Those of cells without tokens do not count.
    pub fn load_sizes(&mut self, sizes: &[TransformSize]) -> Result<()> {
        if sizes.len() != self.common.layout.cells() {
            return Err(Error::Settings(format!(
                "{} transform sizes; give one for each of {} cells",
                sizes.len(),
                self.common.layout.cells()
            )));
        }
        for chosen in &mut self.chosen {
            for (place, size) in self.common.places().zip(sizes) {
                chosen.sizes[place] = Some(*size);
            }
        }
        Ok(())
    }

    /// Appends the segment of `layer` of the block last quantised to `out`. Layers are written in order from 0; `motion` as in
    /// [`quantise`](Self::quantise), layer 0 carries it.
    pub fn write_segment(&mut self, layer: usize, motion: Option<&[i32]>, out: &mut Vec<u8>) -> Result<()> {
        check_motion(&self.common.layout, motion)?;
        self.common.begin(motion.is_none(), layer, &mut self.contexts);
        let mut coder = RangeEncoder::new(&mut self.contexts, out);
        self.common.code_layer(self.steps, layer, motion, &self.chosen[layer], &mut coder)?;
        coder.finish();
        Ok(())
    }

    /// Makes the block whose layer 0 was written last the one that the next block follows.
    pub fn commit(&mut self) {
        self.common.commit(&self.contexts);
    }

    /// Codes one layer of the block last quantised into `coder` instead of a segment, for statistics. After
    /// [`commit`](Self::commit): it leaves contexts unused.
    pub fn observe<C: BitCoder>(&mut self, layer: usize, motion: Option<&[i32]>, coder: &mut C) -> Result<()> {
        self.common.begin(motion.is_none(), layer, &mut self.contexts);
        self.common.code_layer(self.steps, layer, motion, &self.chosen[layer], coder)
    }

    /// Latents as a decoder of `layers` layers (0..=depth) has them, \[cells, C\], and counts \[cells\].
    pub fn dequantise<T: From<i16> + Clone>(
        &self,
        layers: usize,
        motion: Option<&[i32]>,
        latents: &mut [T],
        counts: &mut [i32],
    ) -> Result<()> {
        let layout = &self.common.layout;
        check_latents(layout, latents.len())?;
        check_motion(layout, motion)?;
        latents.fill(T::from(0));
        counts.fill(0);
        let Some(last) = layers.min(self.steps.depth()).checked_sub(1) else {
            return Ok(());
        };
        let c = layout.coefficients;
        let reconstruction = Reconstruction::new(&self.common.tables, self.steps, last);
        let chosen = &self.chosen[last];
        for (cell, (out, count)) in latents.chunks_exact_mut(c).zip(counts).enumerate() {
            let place = self.common.state.place(cell % layout.cells_x, cell / layout.cells_x);
            let extent = usize::from(chosen.extents[place]);
            let values = &chosen.values[place * c..place * c + extent];
            self.common.rebuild(&reconstruction, values, chosen.sizes[place], out);
            let intra = motion.is_none_or(|m| m[2 * layout.cells() + cell] == INTRA);
            *count = self.count_tokens(last, intra, place) as i32;
        }
        Ok(())
    }

    /// 1 + the index of the last token that layers up to `last` send for the cell at `place`, 0: none.
    fn count_tokens(&self, last: usize, intra: bool, place: usize) -> usize {
        let (layout, c) = (&self.common.layout, self.common.layout.coefficients);
        let values = |layer: usize| {
            let chosen = &self.chosen[layer];
            (&chosen.values[place * c..(place + 1) * c], usize::from(chosen.extents[place]))
        };
        for layer in (0..=last).rev() {
            let (now, mut extent) = values(layer);
            let before = layer.checked_sub(1).map(|b| (values(b), self.steps.prediction(layer)));
            extent = extent.max(before.map_or(0, |((_, e), _)| e));
            for i in (0..extent).rev() {
                let assumed = before.map_or(0, |((b, _), prediction)| prediction.assumed(b[i]));
                if now[i] != assumed && !(layer == 0 && intra && layout.constant[i]) {
                    return layer * c + i + 1;
                }
            }
        }
        let (bottom, extent) = values(0);
        let shown = |i: &usize| layout.constant[*i] && bottom[*i] != 0;
        if intra { (0..extent).rev().find(shown).map_or(0, |i| i + 1) } else { 0 }
    }

    /// Quantisation indices of a cell's coefficients in `layer`, in token order.
    pub fn decided(&self, layer: usize, cell: usize) -> &[i16] {
        let layout = &self.common.layout;
        let place = self.common.state.place(cell % layout.cells_x, cell / layout.cells_x);
        &self.chosen[layer].values[place * layout.coefficients..(place + 1) * layout.coefficients]
    }
}

/// Reads the segments of a block. Buffers are allocated once.
#[derive(Debug)]
pub struct NestedDecoder {
    common: Common,
    contexts: Vec<Context>,
    /// Layers read of the block.
    read: usize,
    shape: BlockShape,
}

/// The fields of a block's header that its segments depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockShape {
    /// Whether it is a key block: without motion, all cells intra.
    pub key: bool,
    /// The steps of the layers that it was coded in.
    pub steps: LayerSteps,
}

impl NestedDecoder {
    /// `tables` must have [`CONTEXTS`] contexts.
    pub fn new(layout: &NestedLayout, tables: &Tables) -> Result<Self> {
        let common = Common::new(layout, tables)?;
        Ok(Self {
            contexts: common.fresh.clone(),
            common,
            read: 0,
            shape: BlockShape { key: true, steps: LayerSteps::spaced(1, 0, 0) },
        })
    }

    /// Reads the segment of `layer`: 0 begins a block of `shape`, the others must follow in order.
    /// After an error the layers before are lost too: the block cannot be dequantised.
    pub fn read_segment(&mut self, layer: usize, shape: BlockShape, data: &[u8]) -> Result<()> {
        let BlockShape { key, steps } = shape;
        if steps.depth() > self.common.layout.layers {
            return Err(Error::Malformed(format!("a block of {} layers; wait for the next block", steps.depth())));
        }
        if layer >= steps.depth() || (layer > 0 && (layer != self.read || shape != self.shape)) {
            return Err(Error::Malformed(format!(
                "segment of layer {layer} after {} layers; wait for the next block",
                self.read
            )));
        }
        self.read = 0;
        self.shape = shape;
        self.common.begin(key, layer, &mut self.contexts);
        let Common { layout, classes, state, around, motion, scratch, .. } = &mut self.common;
        let mut coder = RangeDecoder::new(&mut self.contexts, data);
        if layer == 0 {
            motion.fill(0);
            if key {
                motion[2 * layout.cells()..3 * layout.cells()].fill(1);
            } else {
                motion::code_motion(&mut coder, motion, layout.cells_x, layout.cells_y, scratch)?;
            }
        }
        let motion = (!key).then_some(&motion[..]);
        code_layer(&mut coder, Layer { layout, classes, steps, index: layer, motion }, state, around, None)?;
        if !coder.consumed() {
            return Err(Error::Malformed(format!("layer {layer} has bytes after its last cell; wait for the next block")));
        }
        self.read = layer + 1;
        Ok(())
    }

    /// Makes the block last read the one that the next block follows.
    pub fn commit(&mut self) {
        self.common.commit(&self.contexts);
    }

    /// Layers read of the block.
    pub fn layers_read(&self) -> usize {
        self.read
    }

    /// Motion planes dy, dx, mode, by, bx of the block, \[5, cells\]; in a key block mode is 1 (intra) everywhere.
    pub fn motion(&self) -> &[i32] {
        &self.common.motion
    }

    /// Counts by the layers read so far, \[cells\].
    pub fn counts(&self, counts: &mut [i32]) {
        for (place, count) in self.common.places().zip(counts) {
            *count = self.count_tokens(place);
        }
    }

    /// 1 + the index of the last token that the layers read sent for the cell at `place`, 0: none.
    fn count_tokens(&self, place: usize) -> i32 {
        let Common { layout, state, .. } = &self.common;
        let (c, extent) = (layout.coefficients, usize::from(state.extents[place]));
        if extent == 0 {
            return 0;
        }
        match (0..self.read).rev().find(|l| state.counts[*l][place] > 0) {
            Some(l) => (l * c + usize::from(state.counts[l][place])) as i32,
            None => {
                let values = &state.values[place * c..place * c + extent];
                (0..extent).rev().find(|i| layout.constant[*i] && values[*i] != 0).map_or(0, |i| i as i32 + 1)
            }
        }
    }

    /// Latents \[cells, C\] by the layers read so far, and counts \[cells\].
    pub fn dequantise<T: From<i16> + Clone>(&self, latents: &mut [T], counts: &mut [i32]) -> Result<()> {
        let Common { layout, tables, state, .. } = &self.common;
        check_latents(layout, latents.len())?;
        latents.fill(T::from(0));
        counts.fill(0);
        let Some(last) = self.read.checked_sub(1) else {
            return Ok(());
        };
        let c = layout.coefficients;
        let reconstruction = Reconstruction::new(tables, self.shape.steps, last);
        for (cell, (out, count)) in latents.chunks_exact_mut(c).zip(counts).enumerate() {
            let place = state.place(cell % layout.cells_x, cell / layout.cells_x);
            let extent = usize::from(state.extents[place]);
            if extent == 0 {
                continue;
            }
            let values = &state.values[place * c..place * c + extent];
            self.common.rebuild(&reconstruction, values, state.sizes[place], out);
            *count = self.count_tokens(place);
        }
        Ok(())
    }

    /// Coefficients that each cell sent in the layer read last, \[cells\].
    pub fn layer_counts(&self) -> impl Iterator<Item = u16> {
        let counts = self.read.checked_sub(1).map(|last| &self.common.state.counts[last]);
        self.common.places().map(move |place| counts.map_or(0, |c| c[place]))
    }

    /// Transform sizes by the layers read so far, \[cells\]; 16x16 where a cell has no tokens.
    pub fn sizes(&self) -> impl Iterator<Item = TransformSize> {
        self.common.places().map(|place| self.common.state.sizes[place].unwrap_or_default())
    }

    /// Signed quantisation indices after the layer read last, \[cells, C\] in token order.
    pub fn indices(&self) -> impl Iterator<Item = i16> {
        let c = self.common.layout.coefficients;
        self.common.places().flat_map(move |place| self.common.state.values[place * c..(place + 1) * c].iter().copied())
    }
}

fn check_latents(layout: &NestedLayout, found: usize) -> Result<()> {
    let expected = layout.cells() * layout.coefficients;
    if found != expected {
        return Err(Error::Model(format!("{found} latents for {expected}; the graph does not match the bundle's manifest")));
    }
    Ok(())
}

fn check_motion(layout: &NestedLayout, motion: Option<&[i32]>) -> Result<()> {
    let Some(m) = motion else { return Ok(()) };
    let cells = layout.cells();
    if m.len() != motion::PLANES * cells {
        return Err(Error::Settings(format!("motion of {} values for {cells} cells; give {} planes", m.len(), motion::PLANES)));
    }
    if m.iter().any(|v| v.abs() > motion::MAX_MOTION) {
        return Err(Error::Settings(format!("a component of motion beyond {}; limit the search", motion::MAX_MOTION)));
    }
    Ok(())
}
