// SPDX-License-Identifier: MIT OR Apache-2.0
//! Encoder and decoder of the `nested` bottleneck: latents in, segments out, and back.

use super::contexts::{CONTEXTS, MOTION, Set};
use super::layer::{ChosenLayer, Layer, code_layer};
use super::neighbourhood::{BlockState, Neighbourhood, promoted};
use super::quantise::{Decider, Workspace};
use super::refine::Refiner;
use super::step::{Reconstruction, span};
use super::{Estimate, NestedLayout, Rdo, TransformSize, motion};
use crate::entropy::{BitCoder, Context, CostTable, RangeDecoder, RangeEncoder, Tables};
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
    fn begin(&mut self, shape: BlockShape, layer: usize, contexts: &mut [Context]) {
        let start = if layer > 0 || shape.key { &self.fresh } else { &self.carried };
        let set = Set::both(shape.depth, layer);
        contexts[set.clone()].copy_from_slice(&start[set]);
        if layer == 0 {
            contexts[MOTION..].copy_from_slice(&start[MOTION..]);
            self.state.clear();
        }
    }

    /// Keeps what the next block starts from: `contexts` as layer 0 left them.
    fn commit(&mut self, shape: BlockShape, contexts: &[Context]) {
        if shape.key {
            self.carried.copy_from_slice(&self.fresh);
        }
        for range in [Set::both(shape.depth, 0), MOTION..CONTEXTS] {
            self.carried[range.clone()].copy_from_slice(&contexts[range]);
        }
    }

    /// Codes a layer of a block of `depth` layers, with the values of `chosen`.
    fn code_layer<C: BitCoder>(
        &mut self,
        depth: usize,
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
        code_layer(coder, Layer { layout, classes, depth, index: layer, motion }, state, around, Some(chosen))
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
    depth: usize,
    quantiser: u8,
    /// The block whose layer 0 was written last.
    written: BlockShape,
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
            depth: 1,
            quantiser: 0,
            written: BlockShape { key: true, depth: 1 },
        })
    }

    /// Chooses all digits of a block coded in `depth` layers (1..=L) that all refine the same latents.
    ///
    /// `latents`: \[cells, C\] in raster order of cells; `quantiser` 0..=87; `motion`: planes dy, dx, mode of the block, `None` for
    /// a key block. The result stays until the next call and can be written or dequantised.
    pub fn quantise(
        &mut self,
        latents: &[i16],
        quantiser: u8,
        depth: usize,
        motion: Option<&[i32]>,
        rdo: &Rdo,
    ) -> Result<Estimate> {
        self.begin_block(depth, quantiser)?;
        let estimate = self.decide(latents, depth - 1, motion, rdo)?;
        let (coarser, finest) = self.chosen.split_at_mut(depth - 1);
        for (layer, chosen) in coarser.iter_mut().enumerate() {
            chosen.divide(&finest[0], span(depth, layer), self.common.layout.coefficients);
        }
        Ok(estimate)
    }

    /// Begins a block of `depth` layers, each with latents of its own: see [`quantise_layer`](Self::quantise_layer).
    pub fn begin_block(&mut self, depth: usize, quantiser: u8) -> Result<()> {
        if !(1..=self.common.layout.layers).contains(&depth) {
            return Err(Error::Settings(format!("{depth} layers; the bundle has 1..={}", self.common.layout.layers)));
        }
        (self.depth, self.quantiser) = (depth, quantiser);
        Ok(())
    }

    /// Chooses the digits of one layer, after those of the layers before, for receivers of that many layers. `latents` are
    /// those of the residual after prediction from *their* reference, so they do not drift. Arguments as in
    /// [`quantise`](Self::quantise).
    pub fn quantise_layer(&mut self, layer: usize, latents: &[i16], motion: Option<&[i32]>, rdo: &Rdo) -> Result<Estimate> {
        if layer == 0 {
            return self.decide(latents, 0, motion, rdo);
        }
        let common = &mut self.common;
        check_latents(&common.layout, latents.len())?;
        check_motion(&common.layout, motion)?;
        let Common { layout, tables, classes, groups, state, around, .. } = common;
        let layer = Layer { layout, classes, depth: self.depth, index: layer, motion };
        let (coarser, finer) = self.chosen.split_at_mut(layer.index);
        let refiner = Refiner {
            decider: Decider::new(layer, groups, tables, &self.costs, self.quantiser, rdo),
            base: &coarser[layer.index - 1],
        };
        Ok(refiner.run(latents, &mut self.work, state, around, &mut finer[0]))
    }

    /// Sets the signed quantisation indices of one layer, \[cells, C\] in token order, instead of choosing them.
    pub fn load_layer(&mut self, layer: usize, indices: &[i16]) -> Result<()> {
        let c = self.common.layout.coefficients;
        if layer >= self.depth || indices.len() != self.common.layout.cells() * c || indices.contains(&i16::MIN) {
            return Err(Error::Settings(format!(
                "{} indices for layer {layer} of {}; give one from -32767 to 32767 for each of {c} coefficients of {} cells",
                indices.len(),
                self.depth,
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

    /// Decides on layers 0 to `finest` together, into `chosen[finest]`.
    fn decide(&mut self, latents: &[i16], finest: usize, motion: Option<&[i32]>, rdo: &Rdo) -> Result<Estimate> {
        let common = &mut self.common;
        check_latents(&common.layout, latents.len())?;
        check_motion(&common.layout, motion)?;
        let Common { layout, tables, classes, groups, state, around, .. } = common;
        let layer = Layer { layout, classes, depth: self.depth, index: finest, motion };
        let decider = Decider::new(layer, groups, tables, &self.costs, self.quantiser, rdo);
        Ok(decider.run(latents, &mut self.work, state, around, &mut self.chosen[finest]))
    }

    /// Appends the segment of `layer` of the block last quantised to `out`. Layers are written in order from 0; `motion` as in
    /// [`quantise`](Self::quantise), layer 0 carries it.
    pub fn write_segment(&mut self, layer: usize, motion: Option<&[i32]>, out: &mut Vec<u8>) -> Result<()> {
        check_motion(&self.common.layout, motion)?;
        let shape = BlockShape { key: motion.is_none(), depth: self.depth };
        if layer == 0 {
            self.written = shape;
        }
        self.common.begin(shape, layer, &mut self.contexts);
        let mut coder = RangeEncoder::new(&mut self.contexts, out);
        self.common.code_layer(self.depth, layer, motion, &self.chosen[layer], &mut coder)?;
        coder.finish();
        Ok(())
    }

    /// Makes the block whose layer 0 was written last the one that the next block follows.
    pub fn commit(&mut self) {
        self.common.commit(self.written, &self.contexts);
    }

    /// Codes one layer of the block last quantised into `coder` instead of a segment, for statistics. After
    /// [`commit`](Self::commit): it leaves contexts unused.
    pub fn observe<C: BitCoder>(&mut self, layer: usize, motion: Option<&[i32]>, coder: &mut C) -> Result<()> {
        self.common.begin(BlockShape { key: motion.is_none(), depth: self.depth }, layer, &mut self.contexts);
        self.common.code_layer(self.depth, layer, motion, &self.chosen[layer], coder)
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
        let Some(last) = layers.min(self.depth).checked_sub(1) else {
            return Ok(());
        };
        let c = layout.coefficients;
        let reconstruction = Reconstruction::new(&self.common.tables, self.depth, last, self.quantiser);
        let chosen = &self.chosen[last];
        for (cell, (out, count)) in latents.chunks_exact_mut(c).zip(counts).enumerate() {
            let place = self.common.state.place(cell % layout.cells_x, cell / layout.cells_x);
            let extent = usize::from(chosen.extents[place]);
            let values = &chosen.values[place * c..place * c + extent];
            self.common.rebuild(&reconstruction, values, chosen.sizes[place], out);
            let intra = motion.is_none_or(|m| m[2 * layout.cells() + cell] != 0);
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
            let before = layer.checked_sub(1).map(values);
            extent = extent.max(before.map_or(0, |b| b.1));
            for i in (0..extent).rev() {
                let assumed = before.map_or(0, |(b, _)| promoted(b[i]));
                if now[i] != assumed && !(layer == 0 && intra && layout.constant[i]) {
                    return layer * c + i + 1;
                }
            }
        }
        let (bottom, extent) = values(0);
        let shown = |i: &usize| layout.constant[*i] && bottom[*i] != 0;
        if intra { (0..extent).rev().find(shown).map_or(0, |i| i + 1) } else { 0 }
    }

    /// Final quantisation indices of a cell's coefficients, in token order.
    pub fn decided(&self, cell: usize) -> &[i16] {
        let layout = &self.common.layout;
        let place = self.common.state.place(cell % layout.cells_x, cell / layout.cells_x);
        &self.chosen[self.depth - 1].values[place * layout.coefficients..(place + 1) * layout.coefficients]
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
    /// Layers it was coded in, 1..=L.
    pub depth: usize,
}

impl NestedDecoder {
    /// `tables` must have [`CONTEXTS`] contexts.
    pub fn new(layout: &NestedLayout, tables: &Tables) -> Result<Self> {
        let common = Common::new(layout, tables)?;
        Ok(Self { contexts: common.fresh.clone(), common, read: 0, shape: BlockShape { key: true, depth: 1 } })
    }

    /// Reads the segment of `layer`: 0 begins a block of `shape`, the others must follow in order.
    /// After an error the layers before are lost too: the block cannot be dequantised.
    pub fn read_segment(&mut self, layer: usize, shape: BlockShape, data: &[u8]) -> Result<()> {
        if !(1..=self.common.layout.layers).contains(&shape.depth) {
            return Err(Error::Malformed(format!("a block of {} layers; wait for the next block", shape.depth)));
        }
        if layer >= shape.depth || (layer > 0 && (layer != self.read || shape != self.shape)) {
            return Err(Error::Malformed(format!(
                "segment of layer {layer} after {} layers; wait for the next block",
                self.read
            )));
        }
        self.read = 0;
        self.shape = shape;
        let BlockShape { key, depth } = shape;
        self.common.begin(shape, layer, &mut self.contexts);
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
        code_layer(&mut coder, Layer { layout, classes, depth, index: layer, motion }, state, around, None)?;
        if !coder.consumed() {
            return Err(Error::Malformed(format!("layer {layer} has bytes after its last cell; wait for the next block")));
        }
        self.read = layer + 1;
        Ok(())
    }

    /// Makes the block last read the one that the next block follows.
    pub fn commit(&mut self) {
        self.common.commit(self.shape, &self.contexts);
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
    pub fn dequantise<T: From<i16> + Clone>(&self, quantiser: u8, latents: &mut [T], counts: &mut [i32]) -> Result<()> {
        let Common { layout, tables, state, .. } = &self.common;
        check_latents(layout, latents.len())?;
        latents.fill(T::from(0));
        counts.fill(0);
        let Some(last) = self.read.checked_sub(1) else {
            return Ok(());
        };
        let c = layout.coefficients;
        let reconstruction = Reconstruction::new(tables, self.shape.depth, last, quantiser);
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
