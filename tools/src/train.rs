// SPDX-License-Identifier: MIT OR Apache-2.0
//! Training of a bundle's tables from dumps of latents: quantise with the present tables, gather statistics of every entropy
//! context, fit.

use elastictok::Result;
use elastictok::internals::entropy::Tables;
use elastictok::internals::tokens::{
    BIASES, CLASSES, CONTEXTS, Estimate, MAX_NESTED_LAYERS, NestedEncoder, NestedLayout, Rdo, TransformSize, bias_index, describe,
};

use crate::collect::{Collector, fit};
use crate::dump::DumpBlock;

/// Where bits go: (part, bits).
pub type Shares = Vec<(String, f64)>;

/// Statistics from which the classes and biases are made.
#[derive(Debug, Clone)]
struct Moments {
    /// Per coefficient: how often it is significant, and how often its neighbours suggest so.
    hits: Vec<[f64; 2]>,
    /// Per bias: how far below the middle (in intervals), and how often.
    offsets: Vec<[f64; 2]>,
}

/// Gathers statistics of blocks and makes tables from them.
#[derive(Debug)]
pub struct Trainer {
    positions: Vec<[u16; 4]>,
    tables: Tables,
    rdo: Rdo,
    collector: Collector,
    moments: Moments,
    encoder: Option<(usize, usize, NestedEncoder)>,
    /// Run of layer 0 since the last key block.
    run: u32,
    bytes: Vec<u8>,
    /// Sums over all blocks: estimate of the quantiser, and bytes of the segments by layer.
    pub estimate: Estimate,
    /// Bytes of each layer's segments.
    pub layer_bytes: Vec<u64>,
}

impl Trainer {
    /// Begins a round with `tables`.
    pub fn new(positions: &[[u16; 4]], tables: Tables, rdo: Rdo) -> Self {
        let moments = Moments { hits: vec![[0.0; 2]; positions.len()], offsets: vec![[0.0; 2]; BIASES] };
        Self {
            positions: positions.to_vec(),
            tables,
            rdo,
            collector: Collector::new(CONTEXTS),
            moments,
            encoder: None,
            run: 0,
            bytes: Vec::new(),
            estimate: Estimate::default(),
            layer_bytes: vec![0; MAX_NESTED_LAYERS],
        }
    }

    /// Quantises and codes a block with the tables of this round; returns its estimate and its bytes.
    pub fn add(&mut self, block: &DumpBlock) -> Result<(Estimate, usize)> {
        let size = (block.cells_x, block.cells_y);
        let mut encoder = match self.encoder.take() {
            Some((x, y, encoder)) if (x, y) == size => encoder,
            _ => NestedEncoder::new(&NestedLayout::new(&self.positions, MAX_NESTED_LAYERS, size.0, size.1)?, &self.tables)?,
        };
        let motion = (!block.key).then_some(&block.motion[..]);
        let estimate = block.quantise(&mut encoder, &self.rdo)?;
        let mut total = 0;
        for layer in 0..block.steps.depth() {
            self.bytes.clear();
            encoder.write_segment(layer, motion, &mut self.bytes)?;
            total += self.bytes.len();
            self.layer_bytes[layer] += self.bytes.len() as u64;
        }
        encoder.commit();
        // a per cent counts the same in small and large blocks, except in the smallest
        let weight = 1.0e4 / (4000.0 + 8.0 * total as f32);
        if block.key {
            self.run = self.collector.begin_run();
        }
        for layer in 0..block.steps.depth() {
            encoder.observe(layer, motion, &mut self.collector)?;
            let run = if layer == 0 { self.run } else { self.collector.begin_run() };
            self.collector.end_segment(weight, run);
        }
        self.measure(&encoder, block, f64::from(weight));
        self.encoder = Some((size.0, size.1, encoder));
        self.estimate.bits += estimate.bits;
        self.estimate.luma += estimate.luma;
        self.estimate.chroma += estimate.chroma;
        self.estimate.coded_cells += estimate.coded_cells;
        Ok((estimate, total))
    }

    /// Leaves out what the latents, of 16x16 transforms, do not tell: indices of smaller transforms; and constant terms, whose steps
    /// may be others.
    fn measure(&mut self, encoder: &NestedEncoder, block: &DumpBlock, weight: f64) {
        let c = self.positions.len();
        let groups = self.groups();
        for layer in 0..block.steps.depth() {
            let latents = if let [all] = &block.latents[..] { all } else { &block.latents[layer] };
            let (step, last_layer) = (f64::from(block.steps.step(layer)), layer + 1 == block.steps.depth());
            for (cell, latents) in latents.chunks_exact(c).enumerate() {
                if encoder.transform_size(layer, cell) != TransformSize::Size16 {
                    continue;
                }
                let decided = encoder.decided(layer, cell);
                let Some(last) = decided.iter().rposition(|k| *k != 0) else { continue };
                let density = decided.iter().filter(|k| **k != 0).count() as f64 / (last + 1) as f64;
                for i in 0..=last {
                    let (m, x) = (i32::from(decided[i]).abs(), f64::from(latents[i]).abs() / step);
                    if last_layer {
                        self.moments.hits[i][0] += weight * f64::from(m != 0);
                        self.moments.hits[i][1] += weight * density;
                    }
                    if m > 0 && !matches!(self.positions[i], [_, 0, 0, 0]) {
                        let slot = &mut self.moments.offsets[bias_index(layer, m, groups[i])];
                        slot[0] += weight * (f64::from(m) - x);
                        slot[1] += weight;
                    }
                }
            }
        }
    }

    fn groups(&self) -> Vec<u8> {
        let layout = NestedLayout::new(&self.positions, 1, 1, 1);
        let classes = layout.and_then(|l| l.classes(self.tables.classes()));
        classes.map_or_else(|_| vec![0; self.positions.len()], |c| c.iter().map(|c| c / 4).collect())
    }

    /// Bits by part of the syntax, with this round's tables.
    pub fn shares(&self) -> Shares {
        let mut shares: Shares = Vec::new();
        for (context, &init) in self.tables.init().iter().enumerate() {
            let bits = self.collector.bits(context, init);
            let name = match describe(context) {
                Some((upper, intra, part)) => {
                    format!("{part}, {}{}", if upper { "upper layers" } else { "layer 0" }, if intra { ", intra" } else { "" })
                }
                None => "motion".to_owned(),
            };
            match shares.iter_mut().find(|s| s.0 == name) {
                Some(share) => share.1 += bits,
                None => shares.push((name, bits)),
            }
        }
        shares.push(("signs and other raw bits".to_owned(), self.collector.bypassed() as f64));
        shares.retain(|s| s.1 > 0.0);
        shares
    }

    /// Classes of coefficients, by how much more often they are significant than their neighbourhood suggests.
    pub fn classes(&self) -> Vec<u8> {
        let odds = |h: &[f64; 2]| (h[0] + 1.0) / (h[1] + 1.0 + 3.0 * f64::from(u8::from(h[1] == 0.0)));
        let mut order: Vec<usize> = (0..self.positions.len()).collect();
        order.sort_by(|a, b| odds(&self.moments.hits[*b]).total_cmp(&odds(&self.moments.hits[*a])));
        let total: f64 = self.moments.hits.iter().map(|h| h[1] + 0.02).sum();
        let (mut classes, mut sum) = (vec![0; order.len()], 0.0);
        for i in order {
            classes[i] = ((sum / total * CLASSES as f64) as u8).min(CLASSES as u8 - 1);
            sum += self.moments.hits[i][1] + 0.02;
        }
        classes
    }

    /// Tables fitted to this round's statistics.
    pub fn fitted(&self) -> Result<Tables> {
        let init = self.tables.init().iter().enumerate().map(|(context, init)| fit(&self.collector, context, *init)).collect();
        let old = |i: usize| self.tables.biases().get(i).copied().unwrap_or(0);
        let bias = |(i, m): (usize, &[f64; 2])| match m[1] {
            0.0 => old(i),
            n => (256.0 * m[0] / (n + 1.0)).round().clamp(0.0, 120.0) as u8,
        };
        Tables::from_parts(init, self.tables.classes().to_vec(), self.moments.offsets.iter().enumerate().map(bias).collect())
    }
}
