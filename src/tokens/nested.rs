// SPDX-License-Identifier: MIT OR Apache-2.0
//! Encoder and decoder of the `nested` bottleneck: latents in, segments out, and back.

use super::above::Above;
use super::contexts::{CONTEXTS, MOTION, Set};
use super::decisions::Workspace;
use super::layer::{ChosenLayer, Layer, code_layer};
use super::motion::INTRA;
use super::neighbourhood::{BlockState, Neighbourhood};
use super::quantise::Decider;
use super::refine::Refiner;
use super::step::{LayerSteps, Reconstruction};
use super::{Estimate, NestedLayout, Rdo, TransformSize, motion};
use crate::entropy::{BitCoder, Context, CostTable, RangeDecoder, RangeEncoder, Tables};
use crate::pair::Pair;
use crate::{Error, Result};

/// What encoder and decoder share and blocks do not change.
#[derive(Debug)]
struct Common {
    layout: NestedLayout,
    tables: Tables,
    classes: Vec<u8>,
    groups: Vec<u8>,
    fresh: Vec<Context>,
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
        Ok(Self { layout: layout.clone(), tables: tables.clone(), classes, groups, fresh: tables.contexts().collect() })
    }

    /// The latents of a cell, zero so far, from the indices of its first coefficients in token order.
    fn rebuild<T: From<i16>>(
        &self,
        reconstruction: &Reconstruction,
        indices: &[i16],
        size: Option<TransformSize>,
        intra: bool,
        latents: &mut [T],
    ) {
        let parts = self.layout.parts_of(intra);
        let value = |(i, k): (usize, &i16)| (i, reconstruction.value(i32::from(*k), parts[i], self.groups[i]) as i16);
        let coefficients = indices.iter().enumerate().filter(|(_, k)| **k != 0).map(value);
        let luma = self.layout.luma.as_ref().zip(size.filter(|s| *s != TransformSize::Size16));
        for (i, value) in coefficients.clone().filter(|(i, _)| luma.is_none_or(|(grid, _)| !grid.has(*i))) {
            latents[usize::from(self.layout.slots[i])] = T::from(value);
        }
        if let Some((grid, size)) = luma {
            grid.backward(size, coefficients, latents);
        }
    }
}

/// What changes while a block is coded.
#[derive(Debug)]
struct Progress {
    contexts: Vec<Context>,
    /// Contexts of layer 0 and motion as the block before left them.
    carried: Vec<Context>,
    cells: CodedCells,
}

/// The cells of a block as far as they are coded.
#[derive(Debug)]
struct CodedCells {
    state: BlockState,
    around: Neighbourhood,
    motion: Vec<i32>,
    scratch: Vec<u8>,
}

impl Progress {
    fn new(common: &Common) -> Self {
        let layout = &common.layout;
        let cells = CodedCells {
            state: BlockState::new(layout),
            around: Neighbourhood::new(layout, &common.classes),
            motion: vec![0; motion::PLANES * layout.cells()],
            scratch: vec![0; 2 * (layout.cells_x + 1)],
        };
        Self { contexts: common.fresh.clone(), carried: common.fresh.clone(), cells }
    }

    /// Prepares contexts and state for a layer.
    fn begin(&mut self, common: &Common, key: bool, layer: usize) {
        let start = if layer > 0 || key { &common.fresh } else { &self.carried };
        let set = Set::both(layer);
        self.contexts[set.clone()].copy_from_slice(&start[set]);
        if layer == 0 {
            self.contexts[MOTION..].copy_from_slice(&start[MOTION..]);
            self.cells.state.clear();
        }
    }

    fn write_segment(&mut self, block: ChosenBlock<'_>, layer: usize, motion: Option<&[i32]>, out: &mut Vec<u8>) -> Result<()> {
        check_motion(&block.common.layout, motion)?;
        self.begin(block.common, motion.is_none(), layer);
        let mut coder = RangeEncoder::new(&mut self.contexts, out);
        self.cells.code_layer(block, layer, motion, &mut coder)?;
        coder.finish();
        Ok(())
    }

    /// Keeps what the next block starts from: the contexts as layer 0 left them.
    fn commit(&mut self) {
        for range in [Set::both(0), MOTION..CONTEXTS] {
            self.carried[range.clone()].copy_from_slice(&self.contexts[range]);
        }
    }
}

impl CodedCells {
    /// Codes a layer of a chosen block.
    fn code_layer<C: BitCoder>(
        &mut self,
        block: ChosenBlock<'_>,
        layer: usize,
        motion: Option<&[i32]>,
        coder: &mut C,
    ) -> Result<()> {
        let Common { layout, classes, .. } = block.common;
        let Self { state, around, motion: own, scratch } = self;
        if let (0, Some(motion)) = (layer, motion) {
            own.copy_from_slice(motion);
            motion::code_motion(coder, own, layout.cells_x, layout.cells_y, scratch)?;
        }
        let chosen = &block.layers[layer];
        code_layer(coder, Layer { layout, classes, steps: block.steps, index: layer, motion }, state, around, Some(chosen))
    }
}

/// Which cells of a buffer of latents are not zero: only those have to be cleared for the next block. Each buffer has its own.
#[derive(Debug, Default)]
pub struct FilledCells(Vec<bool>);

impl FilledCells {
    /// Makes the latents of `cells` cells zero.
    fn clear<T: From<i16> + Clone>(&mut self, latents: &mut [T], cells: usize) {
        if self.0.len() != cells {
            // nothing is known of the buffer
            latents.fill(T::from(0));
            self.0 = vec![false; cells];
            return;
        }
        for (latents, filled) in latents.chunks_exact_mut(latents.len() / cells).zip(&mut self.0) {
            if std::mem::take(filled) {
                latents.fill(T::from(0));
            }
        }
    }
}

/// The tokens of a block as an encoder chose them.
#[derive(Debug, Clone, Copy)]
pub struct ChosenBlock<'a> {
    common: &'a Common,
    layers: &'a [ChosenLayer],
    steps: LayerSteps,
}

impl ChosenBlock<'_> {
    /// Latents as a decoder of `layers` layers (0..=depth) has them, \[cells, C\], and counts \[cells\]. `motion` as in
    /// [`NestedEncoder::quantise`]; `filled` belongs to `latents`, and is new if anything else was written there.
    pub fn dequantise<T: From<i16> + Clone>(
        &self,
        layers: usize,
        motion: Option<&[i32]>,
        latents: &mut [T],
        filled: &mut FilledCells,
        counts: &mut [i32],
    ) -> Result<()> {
        let layout = &self.common.layout;
        check_latents(layout, latents.len())?;
        check_motion(layout, motion)?;
        filled.clear(latents, layout.cells());
        counts.fill(0);
        let Some(last) = layers.min(self.steps.depth()).checked_sub(1) else {
            return Ok(());
        };
        let c = layout.coefficients;
        let reconstruction = Reconstruction::new(&self.common.tables, self.steps, last);
        let chosen = &self.layers[last];
        let cells = latents.chunks_exact_mut(c).zip(&mut filled.0).zip(counts);
        for ((cell, place), ((latents, filled), count)) in layout.places().enumerate().zip(cells) {
            let extent = usize::from(chosen.extents[place]);
            let intra = motion.is_none_or(|m| m[2 * layout.cells() + cell] == INTRA);
            if extent > 0 {
                let values = &chosen.values[place * c..place * c + extent];
                self.common.rebuild(&reconstruction, values, chosen.sizes[place], intra, latents);
                *filled = true;
            }
            *count = self.count_tokens(last, intra, place) as i32;
        }
        Ok(())
    }

    /// The values of a cell in a layer, and how many of the first of them may not be zero.
    fn values(&self, layer: usize, place: usize) -> (&[i16], usize) {
        let (chosen, c) = (&self.layers[layer], self.common.layout.coefficients);
        (&chosen.values[place * c..(place + 1) * c], usize::from(chosen.extents[place]))
    }

    /// 1 + the last coefficient of a cell whose value in `layer` is not the one assumed there, of those that `counts`; 0: none.
    fn sent(&self, layer: usize, intra: bool, place: usize, counts: impl Fn(usize) -> bool) -> usize {
        let (now, mut extent) = self.values(layer, place);
        let before = layer.checked_sub(1).map(|b| (self.values(b, place), self.steps.prediction(layer)));
        extent = extent.max(before.map_or(0, |((_, e), _)| e));
        let layout = &self.common.layout;
        let assumed =
            |i: usize| before.map_or(0, |((b, _), predictions)| predictions.of(layout.parts_of(intra)[i]).assumed(b[i]));
        (0..extent).rev().find(|&i| now[i] != assumed(i) && counts(i)).map_or(0, |i| i + 1)
    }

    /// Whether a layer above layer 0 sends anything for any cell. `motion` as in [`NestedEncoder::quantise`].
    pub fn sends(&self, layer: usize, motion: Option<&[i32]>) -> bool {
        let layout = &self.common.layout;
        let intra = |cell: usize| motion.is_none_or(|m| m[2 * layout.cells() + cell] == INTRA);
        layout.places().enumerate().any(|(cell, place)| self.sent(layer, intra(cell), place, |_| true) > 0)
    }

    /// 1 + the index of the last token that layers up to `last` send for the cell at `place`, 0: none.
    fn count_tokens(&self, last: usize, intra: bool, place: usize) -> usize {
        let layout = &self.common.layout;
        for layer in (0..=last).rev() {
            let sent = self.sent(layer, intra, place, |i| !(layer == 0 && intra && layout.constant[i]));
            if sent > 0 {
                return layer * layout.coefficients + sent;
            }
        }
        let (bottom, extent) = self.values(0, place);
        let shown = |i: &usize| layout.constant[*i] && bottom[*i] != 0;
        if intra { (0..extent).rev().find(shown).map_or(0, |i| i + 1) } else { 0 }
    }
}

/// Quantises the latents of a block and writes its segments. Buffers are allocated once.
#[derive(Debug)]
pub struct NestedEncoder {
    common: Common,
    progress: Progress,
    costs: CostTable,
    /// One for each layer.
    chosen: Vec<ChosenLayer>,
    work: Workspace,
    /// What errors of each cell count.
    weights: Vec<f32>,
    pair: Pair,
    steps: LayerSteps,
}

impl NestedEncoder {
    /// `tables` must have [`CONTEXTS`] contexts.
    pub fn new(layout: &NestedLayout, tables: &Tables) -> Result<Self> {
        let common = Common::new(layout, tables)?;
        let progress = Progress::new(&common);
        let chosen = ChosenLayer {
            values: progress.cells.state.values.clone(),
            extents: progress.cells.state.extents.clone(),
            sizes: progress.cells.state.sizes.clone(),
        };
        Ok(Self {
            costs: CostTable::new(tables),
            work: Workspace::new(layout, &common.classes),
            weights: vec![1.0; layout.cells()],
            common,
            progress,
            chosen: vec![chosen; layout.layers],
            pair: Pair::single(),
            steps: LayerSteps::spaced(1, 0, 0),
        })
    }

    /// Another one of the same tokens, for a smaller picture of so many cells across and down, on one thread.
    pub fn for_size(&self, cells_x: usize, cells_y: usize) -> Result<Self> {
        Self::new(&self.common.layout.with_size(cells_x, cells_y), &self.common.tables)
    }

    /// Works on one or two of `threads` threads; the tokens are the same.
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
            estimate = self.quantise_layer(layer, latents, None, motion, rdo)?;
            bits += estimate.bits;
        }
        Ok(Estimate { bits, ..estimate })
    }

    /// What a squared error counts in each cell when tokens are chosen, \[cells\]: 1 until they are changed, above 0.
    pub fn weights_mut(&mut self) -> &mut [f32] {
        &mut self.weights
    }

    /// The same, to read.
    pub fn weights(&self) -> &[f32] {
        &self.weights
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
    /// the reference of receivers of that many layers, so they do not drift; `above`: those of the next layer, where they are others, and
    /// what it pays for this layer's indices counts. Other arguments as in [`quantise`](Self::quantise).
    pub fn quantise_layer(
        &mut self,
        layer: usize,
        latents: &[i16],
        above: Option<&[i16]>,
        motion: Option<&[i32]>,
        rdo: &Rdo,
    ) -> Result<Estimate> {
        let Common { layout, tables, classes, groups, .. } = &self.common;
        check_latents(layout, latents.len())?;
        above.map_or(Ok(()), |above| check_latents(layout, above.len()))?;
        check_motion(layout, motion)?;
        let layer = Layer { layout, classes, steps: self.steps, index: layer, motion };
        let above = above.filter(|_| layer.index + 1 < self.steps.depth());
        let above = above.map(|latents| Above::new(latents, self.steps, layer.index, rdo));
        let decider = Decider::new(layer, groups, &self.weights, tables, &self.costs, rdo).under(above);
        let (coarser, finer) = self.chosen.split_at_mut(layer.index);
        Ok(match (layer.predictions(), coarser.last()) {
            (Some(predictions), Some(base)) => {
                self.work.run(&Refiner { decider, predictions, base }, latents, &self.pair, &mut finer[0])
            }
            _ => self.work.run(&decider, latents, &self.pair, &mut finer[0]),
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
        for (place, cell) in self.common.layout.places().zip(indices.chunks_exact(c)) {
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
            for (place, size) in self.common.layout.places().zip(sizes) {
                chosen.sizes[place] = Some(*size);
            }
        }
        Ok(())
    }

    /// The block last quantised.
    pub fn block(&self) -> ChosenBlock<'_> {
        ChosenBlock { common: &self.common, layers: &self.chosen, steps: self.steps }
    }

    /// Appends the segment of `layer` of the block last quantised to `out`. Layers are written in order from 0; `motion` as in
    /// [`quantise`](Self::quantise), layer 0 carries it.
    pub fn write_segment(&mut self, layer: usize, motion: Option<&[i32]>, out: &mut Vec<u8>) -> Result<()> {
        let block = ChosenBlock { common: &self.common, layers: &self.chosen, steps: self.steps };
        self.progress.write_segment(block, layer, motion, out)
    }

    /// Writes a block's first layers into as many segments, replacing what is there. Where there are two threads, `meanwhile` is done on
    /// this one at the same time.
    pub fn write_segments<R>(
        &mut self,
        motion: Option<&[i32]>,
        segments: &mut [Vec<u8>],
        meanwhile: impl FnOnce(ChosenBlock<'_>) -> R,
    ) -> Result<R> {
        let block = ChosenBlock { common: &self.common, layers: &self.chosen, steps: self.steps };
        let (progress, mut written, mut done) = (&mut self.progress, Ok(()), None);
        let write = || {
            written = segments.iter_mut().enumerate().try_for_each(|(layer, segment)| {
                segment.clear();
                progress.write_segment(block, layer, motion, segment)
            });
        };
        self.pair.run(|| done = Some(meanwhile(block)), write);
        written?;
        done.ok_or_else(|| Error::Runtime("the work beside the coding of a block was not done".into()))
    }

    /// Makes the block whose layer 0 was written last the one that the next block follows.
    pub fn commit(&mut self) {
        self.progress.commit();
    }

    /// Codes one layer of the block last quantised into `coder` instead of a segment, for statistics. After
    /// [`commit`](Self::commit): it leaves contexts unused.
    pub fn observe<C: BitCoder>(&mut self, layer: usize, motion: Option<&[i32]>, coder: &mut C) -> Result<()> {
        let block = ChosenBlock { common: &self.common, layers: &self.chosen, steps: self.steps };
        self.progress.begin(block.common, motion.is_none(), layer);
        self.progress.cells.code_layer(block, layer, motion, coder)
    }

    /// Quantisation indices of a cell's coefficients in `layer`, in token order.
    pub fn decided(&self, layer: usize, cell: usize) -> &[i16] {
        let layout = &self.common.layout;
        let (place, c) = (layout.place(cell), layout.coefficients);
        &self.chosen[layer].values[place * c..(place + 1) * c]
    }

    /// The size of the transform whose coefficients a cell's indices in `layer` are.
    pub fn transform_size(&self, layer: usize, cell: usize) -> TransformSize {
        self.chosen[layer].sizes[self.common.layout.place(cell)].unwrap_or_default()
    }
}

/// Reads the segments of a block. Buffers are allocated once.
#[derive(Debug)]
pub struct NestedDecoder {
    common: Common,
    progress: Progress,
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
            progress: Progress::new(&common),
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
        self.progress.begin(&self.common, key, layer);
        let Common { layout, classes, .. } = &self.common;
        let CodedCells { state, around, motion, scratch } = &mut self.progress.cells;
        let mut coder = RangeDecoder::new(&mut self.progress.contexts, data);
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
        self.progress.commit();
    }

    /// Layers read of the block.
    pub fn layers_read(&self) -> usize {
        self.read
    }

    /// Motion planes dy, dx, mode, by, bx of the block, \[5, cells\]; in a key block mode is 1 (intra) everywhere.
    pub fn motion(&self) -> &[i32] {
        &self.progress.cells.motion
    }

    /// Counts by the layers read so far, \[cells\].
    pub fn counts(&self, counts: &mut [i32]) {
        for (place, count) in self.common.layout.places().zip(counts) {
            *count = self.count_tokens(place);
        }
    }

    /// 1 + the index of the last token that the layers read sent for the cell at `place`, 0: none.
    fn count_tokens(&self, place: usize) -> i32 {
        let (layout, state) = (&self.common.layout, &self.progress.cells.state);
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

    /// Latents \[cells, C\] by the layers read so far, and counts \[cells\]. `filled` belongs to `latents`, and is new if anything else
    /// was written there.
    pub fn dequantise<T: From<i16> + Clone>(
        &self,
        latents: &mut [T],
        filled: &mut FilledCells,
        counts: &mut [i32],
    ) -> Result<()> {
        let (Common { layout, tables, .. }, state) = (&self.common, &self.progress.cells.state);
        check_latents(layout, latents.len())?;
        filled.clear(latents, layout.cells());
        counts.fill(0);
        let Some(last) = self.read.checked_sub(1) else {
            return Ok(());
        };
        let c = layout.coefficients;
        let reconstruction = Reconstruction::new(tables, self.shape.steps, last);
        let cells = latents.chunks_exact_mut(c).zip(&mut filled.0).zip(counts);
        let motion = &self.progress.cells.motion;
        for ((cell, place), ((out, filled), count)) in layout.places().enumerate().zip(cells) {
            let extent = usize::from(state.extents[place]);
            if extent == 0 {
                continue;
            }
            let values = &state.values[place * c..place * c + extent];
            self.common.rebuild(&reconstruction, values, state.sizes[place], motion[2 * layout.cells() + cell] == INTRA, out);
            *filled = true;
            *count = self.count_tokens(place);
        }
        Ok(())
    }

    /// Coefficients that each cell sent in the layer read last, \[cells\].
    pub fn layer_counts(&self) -> impl Iterator<Item = u16> {
        let counts = self.read.checked_sub(1).map(|last| &self.progress.cells.state.counts[last]);
        self.common.layout.places().map(move |place| counts.map_or(0, |c| c[place]))
    }

    /// Transform sizes by the layers read so far, \[cells\]; 16x16 where a cell has no tokens.
    pub fn sizes(&self) -> impl Iterator<Item = TransformSize> {
        self.common.layout.places().map(|place| self.progress.cells.state.sizes[place].unwrap_or_default())
    }

    /// Signed quantisation indices after the layer read last, \[cells, C\] in token order.
    pub fn indices(&self) -> impl Iterator<Item = i16> {
        let c = self.common.layout.coefficients;
        self.common
            .layout
            .places()
            .flat_map(move |place| self.progress.cells.state.values[place * c..(place + 1) * c].iter().copied())
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
