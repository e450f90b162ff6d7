// SPDX-License-Identifier: MIT OR Apache-2.0
//! Training of a bundle's tables from dumps of latents: quantise with the present tables, gather statistics of every entropy
//! context, fit.

use std::io::Read;

use super::contexts::{CONTEXTS, describe};
use super::layout::CLASSES;
use super::step::{BIASES, bias_index, span, step};
use super::{Estimate, NestedEncoder, NestedLayout, Rdo};
use crate::entropy::{BitCoder, Collector, Tables, fit};
use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"ETKDUMP2";

/// One block of a dump.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Whether it is a key block.
    pub key: bool,
    /// Quantiser index 0..=87.
    pub quantiser: u8,
    /// Cells in a row.
    pub cells_x: usize,
    /// Rows of cells.
    pub cells_y: usize,
    /// Planes dy, dx, mode.
    pub motion: Vec<i32>,
    /// Layers it was coded in.
    pub depth: usize,
    /// \[cells, C\], for all layers together or for each.
    pub latents: Vec<Vec<i16>>,
}

/// A dump: `ETKDUMP2`, then C and L (u32), C positions of four u16; then per block: key u8, quantiser u8, depth u8, n u8 (1 or
/// depth), cells_x u32, cells_y u32, motion i32\[3 * cells\], latents i16\[n * cells * C\]. All little-endian.
#[derive(Debug)]
pub struct DumpReader<R> {
    input: R,
    /// (component, t, v, u) of each coefficient.
    pub positions: Vec<[u16; 4]>,
    /// Layers of the quantiser.
    pub levels: usize,
}

fn io(error: std::io::Error) -> Error {
    Error::Model(format!("dump of latents: {error}; write it again"))
}

impl Record {
    /// Quantises the block with `quantiser`, each layer from its latents.
    pub fn quantise(&self, encoder: &mut NestedEncoder, quantiser: u8, rdo: &Rdo) -> Result<Estimate> {
        let motion = (!self.key).then_some(&self.motion[..]);
        if let [latents] = &self.latents[..] {
            return encoder.quantise(latents, quantiser, self.depth, motion, rdo);
        }
        encoder.begin_block(self.depth, quantiser)?;
        let mut sum = Estimate::default();
        for (level, latents) in self.latents.iter().enumerate() {
            let one = encoder.quantise_level(level, latents, motion, rdo)?;
            sum = Estimate { bits: sum.bits + one.bits, ..one };
        }
        Ok(sum)
    }
}

impl<R: Read> DumpReader<R> {
    /// Reads the header.
    pub fn new(mut input: R) -> Result<Self> {
        let mut head = [0; 16];
        input.read_exact(&mut head).map_err(io)?;
        if head[..8] != MAGIC {
            return Err(Error::Model("not a dump of latents; the example says how one is made".into()));
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (coefficients, levels) = (word(8), word(12));
        if coefficients > 1 << 13 {
            return Err(Error::Limit(format!("a dump with {coefficients} coefficients a cell; write it again")));
        }
        let mut bytes = vec![0; 8 * coefficients];
        input.read_exact(&mut bytes).map_err(io)?;
        let word = |b: &[u8], at: usize| u16::from_le_bytes([b[2 * at], b[2 * at + 1]]);
        let positions = bytes.chunks_exact(8).map(|b| [word(b, 0), word(b, 1), word(b, 2), word(b, 3)]).collect();
        Ok(Self { input, positions, levels })
    }

    /// The next block, or `None` at the end.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        let mut head = [0; 12];
        match self.input.read_exact(&mut head) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.map_err(io)?,
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (cells_x, cells_y) = (word(4), word(8));
        if cells_x.saturating_mul(cells_y) > 1 << 20 {
            return Err(Error::Limit(format!("a dump of {cells_x}x{cells_y} cells; write it again")));
        }
        let cells = cells_x * cells_y;
        let mut bytes = vec![0; 12 * cells];
        self.input.read_exact(&mut bytes).map_err(io)?;
        let motion = bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let depth = usize::from(head[2]);
        bytes.resize(2 * cells * self.positions.len(), 0);
        let mut latents = Vec::new();
        for _ in 0..head[3] {
            self.input.read_exact(&mut bytes).map_err(io)?;
            latents.push(bytes.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect());
        }
        if latents.len() != 1 && latents.len() != depth {
            return Err(Error::Model(format!(
                "a dump with {} sets of latents for {depth} layers; write it again",
                latents.len()
            )));
        }
        Ok(Some(Record { key: head[0] != 0, quantiser: head[1], cells_x, cells_y, motion, depth, latents }))
    }
}

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
    levels: usize,
    tables: Tables,
    rdo: Rdo,
    collector: Collector,
    moments: Moments,
    encoder: Option<(usize, usize, NestedEncoder)>,
    bytes: Vec<u8>,
    /// Sums over all blocks: estimate of the quantiser, and bytes of the segments by layer.
    pub estimate: Estimate,
    /// Bytes of each layer's segments.
    pub level_bytes: Vec<u64>,
}

impl Trainer {
    /// Begins a round with `tables`.
    pub fn new(positions: &[[u16; 4]], levels: usize, tables: Tables, rdo: Rdo) -> Self {
        let moments = Moments { hits: vec![[0.0; 2]; positions.len()], offsets: vec![[0.0; 2]; BIASES] };
        Self {
            positions: positions.to_vec(),
            levels,
            tables,
            rdo,
            collector: Collector::new(CONTEXTS),
            moments,
            encoder: None,
            bytes: Vec::new(),
            estimate: Estimate::default(),
            level_bytes: vec![0; levels],
        }
    }

    /// Quantises and codes a block with the tables of this round; returns its estimate and its bytes.
    pub fn add(&mut self, record: &Record) -> Result<(Estimate, usize)> {
        let size = (record.cells_x, record.cells_y);
        let mut encoder = match self.encoder.take() {
            Some((x, y, encoder)) if (x, y) == size => encoder,
            _ => NestedEncoder::new(&NestedLayout::new(&self.positions, self.levels, size.0, size.1)?, &self.tables)?,
        };
        let motion = (!record.key).then_some(&record.motion[..]);
        let estimate = record.quantise(&mut encoder, record.quantiser, &self.rdo)?;
        let mut total = 0;
        for level in 0..record.depth {
            self.bytes.clear();
            encoder.write_segment(level, motion, &mut self.bytes)?;
            total += self.bytes.len();
            self.level_bytes[level] += self.bytes.len() as u64;
        }
        // a per cent counts the same in small and large blocks, except in the smallest
        let weight = 1.0e4 / (4000.0 + 8.0 * total as f32);
        for level in 0..record.depth {
            encoder.observe(level, motion, &mut self.collector)?;
            self.collector.end_segment(weight);
        }
        self.measure(&encoder, record, f64::from(weight));
        self.encoder = Some((size.0, size.1, encoder));
        self.estimate.bits += estimate.bits;
        self.estimate.luma += estimate.luma;
        self.estimate.chroma += estimate.chroma;
        self.estimate.coded_cells += estimate.coded_cells;
        Ok((estimate, total))
    }

    fn measure(&mut self, encoder: &NestedEncoder, record: &Record, weight: f64) {
        let c = self.positions.len();
        let groups = self.groups();
        let step = f64::from(step(record.quantiser));
        for (cell, latents) in record.latents.last().map_or(&[][..], |l| l).chunks_exact(c).enumerate() {
            let decided = encoder.decided(cell);
            let Some(last) = decided.iter().rposition(|k| *k != 0) else {
                continue;
            };
            let density = decided.iter().filter(|k| **k != 0).count() as f64 / (last + 1) as f64;
            for i in 0..=last {
                let (k, x) = (i32::from(decided[i]), f64::from(latents[i]) / step);
                self.moments.hits[i][0] += weight * f64::from(k != 0);
                self.moments.hits[i][1] += weight * density;
                for level in 0..record.depth {
                    // the others have latents of their own
                    let span = span(record.depth, level);
                    let m = k.abs() / span;
                    if m > 0 && (record.latents.len() == 1 || level + 1 == record.depth) {
                        let width = f64::from(span);
                        let middle = f64::from(m) * width + (width - 1.0) / 2.0;
                        let slot = &mut self.moments.offsets[bias_index(record.depth - 1 - level, m, groups[i])];
                        slot[0] += weight * (middle - x.abs()) / width;
                        slot[1] += weight;
                    }
                }
            }
        }
    }

    fn groups(&self) -> Vec<u8> {
        let layout = NestedLayout::new(&self.positions, self.levels, 1, 1);
        let classes = layout.and_then(|l| l.classes(self.tables.classes()));
        classes.map_or_else(|_| vec![0; self.positions.len()], |c| c.iter().map(|c| c / 4).collect())
    }

    /// Bits by part of the syntax, with this round's tables.
    pub fn shares(&self) -> Shares {
        let mut shares: Shares = Vec::new();
        for (context, &init) in self.tables.init().iter().enumerate() {
            let bits = self.collector.bits(context, init);
            let name = match describe(context) {
                Some((depth, level, intra, part)) => {
                    format!("{part}, layer {level} of {depth}{}", if intra { ", intra" } else { "" })
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
        let bias = |m: &[f64; 2]| (256.0 * m[0] / (m[1] + 1.0)).round().clamp(0.0, 120.0) as u8;
        Tables::from_parts(init, self.tables.classes().to_vec(), self.moments.offsets.iter().map(bias).collect())
    }

    /// The same tables with other classes of coefficients; the contexts have to be fitted again.
    pub fn with_classes(&self, classes: Vec<u8>) -> Result<Tables> {
        Tables::from_parts(self.tables.init().to_vec(), classes, self.tables.biases().to_vec())
    }
}

/// Motion's share is coded with layer 0 only; this counts any coder's bits for it.
pub fn motion_bits<C: BitCoder>(coder: &mut C, motion: &mut [i32], cells_x: usize, cells_y: usize) -> Result<()> {
    let mut scratch = vec![0; cells_x + 1];
    super::motion::code(coder, motion, cells_x, cells_y, &mut scratch)
}
