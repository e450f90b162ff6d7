// SPDX-License-Identifier: MIT OR Apache-2.0
//! Dumps: the latents and motion of a stream's blocks as the encoder quantised them. `codec dump` writes them; `collect_tables`
//! and `truncate` read them.
//!
//! A dump is `ETKDUMP4`, then C and L (u32) and C positions of four u16: component, t, v, u; most important coefficient first.
//! Then for each block: key u8, quantisers of the last layer and of layer 0 u8, depth u8, n u8 (1 or depth), frames u8, two zero u8,
//! cells_x u32, cells_y u32, motion i32\[5 * cells\], latents i16\[n * cells * C\]. All little-endian.

use std::io::{Read, Write};

use elastictok::internals::BlockView;
use elastictok::internals::tokens::motion::PLANES as MOTION_PLANES;
use elastictok::internals::tokens::{Estimate, LayerSteps, NestedEncoder, Rdo};
use elastictok::{Error, Result};

const MAGIC: [u8; 8] = *b"ETKDUMP4";

/// One block of a dump.
#[derive(Debug, Clone, PartialEq)]
pub struct DumpBlock {
    /// Whether it is a key block.
    pub key: bool,
    /// Frames shown of it; where they are fewer than a block's, the last one is repeated.
    pub frames: u8,
    /// The quantisers of its layers.
    pub steps: LayerSteps,
    /// Cells in a row.
    pub cells_x: usize,
    /// Rows of cells.
    pub cells_y: usize,
    /// Planes dy, dx, mode, by, bx.
    pub motion: Vec<i32>,
    /// \[cells, C\] in token order, for all layers together or for each.
    pub latents: Vec<Vec<i16>>,
}

impl DumpBlock {
    /// Quantises the block, each layer from its latents.
    pub fn quantise(&self, encoder: &mut NestedEncoder, rdo: &Rdo) -> Result<Estimate> {
        let motion = (!self.key).then_some(&self.motion[..]);
        if let [latents] = &self.latents[..] {
            return encoder.quantise(latents, self.steps, motion, rdo);
        }
        encoder.begin_block(self.steps)?;
        let mut sum = Estimate::default();
        for (layer, latents) in self.latents.iter().enumerate() {
            let one = encoder.quantise_layer(layer, latents, self.latents.get(layer + 1).map(|above| &above[..]), motion, rdo)?;
            sum = Estimate { bits: sum.bits + one.bits, ..one };
        }
        Ok(sum)
    }
}

/// Writes a dump.
#[derive(Debug)]
pub struct DumpWriter<W> {
    output: W,
    /// The graph's index of each coefficient, in token order.
    order: Vec<u16>,
    bytes: Vec<u8>,
}

impl<W: Write> DumpWriter<W> {
    /// Writes the header. `positions` are the manifest's, in the graph's order; `order` is the manifest's.
    pub fn new(mut output: W, positions: &[[u16; 4]], order: &[u16], layers: u32) -> std::io::Result<Self> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend((order.len() as u32).to_le_bytes());
        bytes.extend(layers.to_le_bytes());
        for &i in order {
            bytes.extend(positions[usize::from(i)].iter().flat_map(|part| part.to_le_bytes()));
        }
        output.write_all(&bytes)?;
        Ok(Self { output, order: order.to_vec(), bytes })
    }

    /// Writes a block of so many `frames` and `cells_x` x `cells_y` cells, whose `latents` are \[cells, C\] in the graph's order.
    pub fn write(&mut self, block: &BlockView<'_>, frames: u8, cells_x: usize, cells_y: usize) -> std::io::Result<()> {
        let bytes = &mut self.bytes;
        bytes.clear();
        let (steps, n) = (block.steps, block.latents.len() as u8);
        let (finest, base) = (steps.quantiser(steps.depth() - 1), steps.quantiser(0));
        bytes.extend([u8::from(block.key), finest, base, steps.depth() as u8, n, frames, 0, 0]);
        bytes.extend((cells_x as u32).to_le_bytes());
        bytes.extend((cells_y as u32).to_le_bytes());
        bytes.extend(block.motion.iter().flat_map(|m| m.to_le_bytes()));
        for cell in block.latents.iter().flat_map(|latents| latents.chunks_exact(self.order.len())) {
            bytes.extend(self.order.iter().flat_map(|&i| cell[usize::from(i)].to_le_bytes()));
        }
        self.output.write_all(bytes)
    }

    /// Writes what is buffered.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.output.flush()
    }
}

/// Reads a dump.
#[derive(Debug)]
pub struct DumpReader<R> {
    input: R,
    /// (component, t, v, u) of each coefficient, in token order.
    pub positions: Vec<[u16; 4]>,
    /// L, the most layers of a block.
    pub layers: usize,
}

fn io(error: std::io::Error) -> Error {
    Error::Model(format!("dump of latents: {error}; write it again"))
}

impl<R: Read> DumpReader<R> {
    /// Reads the header.
    pub fn new(mut input: R) -> Result<Self> {
        let mut head = [0; 16];
        input.read_exact(&mut head).map_err(io)?;
        if head[..8] != MAGIC {
            return Err(Error::Model("not a dump of latents; write one with `codec dump`".into()));
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (coefficients, layers) = (word(8), word(12));
        if coefficients > 1 << 13 {
            return Err(Error::Limit(format!("a dump with {coefficients} coefficients a cell; write it again")));
        }
        let mut bytes = vec![0; 8 * coefficients];
        input.read_exact(&mut bytes).map_err(io)?;
        let word = |b: &[u8], at: usize| u16::from_le_bytes([b[2 * at], b[2 * at + 1]]);
        let positions = bytes.chunks_exact(8).map(|b| [word(b, 0), word(b, 1), word(b, 2), word(b, 3)]).collect();
        Ok(Self { input, positions, layers })
    }

    /// The next block, or `None` at the end.
    pub fn next_block(&mut self) -> Result<Option<DumpBlock>> {
        let mut head = [0; 16];
        match self.input.read_exact(&mut head) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.map_err(io)?,
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (cells_x, cells_y) = (word(8), word(12));
        if cells_x.saturating_mul(cells_y) > 1 << 20 {
            return Err(Error::Limit(format!("a dump of {cells_x}x{cells_y} cells; write it again")));
        }
        let cells = cells_x * cells_y;
        let mut bytes = vec![0; 4 * MOTION_PLANES * cells];
        self.input.read_exact(&mut bytes).map_err(io)?;
        let motion = bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let steps = LayerSteps::new(usize::from(head[3]), head[2], head[1]);
        bytes.resize(2 * cells * self.positions.len(), 0);
        let mut latents = Vec::new();
        for _ in 0..head[4] {
            self.input.read_exact(&mut bytes).map_err(io)?;
            latents.push(bytes.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect());
        }
        if latents.len() != 1 && latents.len() != steps.depth() {
            return Err(Error::Model(format!(
                "a dump with {} sets of latents for {} layers; write it again",
                latents.len(),
                steps.depth()
            )));
        }
        Ok(Some(DumpBlock { key: head[0] != 0, frames: head[5], steps, cells_x, cells_y, motion, latents }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_in_token_order() {
        let (positions, order) = ([[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]], [2, 0, 1]);
        let (motion, first, second) = ([1, -2, 3, -4, 0, 1, 5, -6, 7, 8], [1i16, 2, 3, 4, 5, 6], [-1i16, -2, -3, -4, -5, -6]);
        let steps = LayerSteps::new(2, 47, 40);
        let mut file = Vec::new();
        let mut writer = DumpWriter::new(&mut file, &positions, &order, 3).expect("written");
        for latents in [vec![&first[..]], vec![&first[..], &second[..]]] {
            let key = latents.len() == 1;
            writer.write(&BlockView { key, steps, motion: &motion, latents }, 2 - u8::from(key), 2, 1).expect("written");
        }
        let mut reader = DumpReader::new(&file[..]).expect("a dump");
        assert_eq!((&reader.positions[..], reader.layers), (&[positions[2], positions[0], positions[1]][..], 3));
        let ordered = vec![3, 1, 2, 6, 4, 5];
        let block = reader.next_block().expect("whole").expect("a block");
        assert_eq!((block.key, block.frames, block.steps, block.cells_x, block.cells_y), (true, 1, steps, 2, 1));
        assert_eq!((&block.motion[..], &block.latents), (&motion[..], &vec![ordered.clone()]));
        let block = reader.next_block().expect("whole").expect("a block");
        assert_eq!((block.key, block.frames), (false, 2));
        assert_eq!(block.latents, [ordered.clone(), ordered.iter().map(|x| -x).collect()]);
        assert_eq!(reader.next_block(), Ok(None));
        let mut cut = DumpReader::new(&file[..file.len() - 1]).expect("a dump");
        assert!(cut.next_block().is_ok() && cut.next_block().is_err());
        assert!(DumpReader::new(&b"not a dump of latents"[..]).is_err());
    }
}
