// SPDX-License-Identifier: MIT OR Apache-2.0
//! What receivers of fewer layers have: quantises the blocks of a dump again and writes the latents of every truncation.
//!
//! `truncate DUMP RATIO OFFSET...` reads what `codec dump` wrote and quantises every block in all L layers with its own quantiser plus
//! each OFFSET, cut to the range that the encoder uses, and RATIO more from layer to layer. To standard output go, for every block: key u8, frames u8, zero u16, motion
//! i32\[5 * cells\] and the latents i16\[cells * C\] that receivers of all layers get; then, for every offset and number of layers
//! 1..=L: quantiser of the last layer that holds anything u8, zero u8, zero u16, counts i32\[cells\], dequantised
//! latents i16\[cells * C\]. Latents are in token order, all numbers little-endian. Training of the encoder graph's `distortion`
//! reads them.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};

use anyhow::{Context as _, Result, bail};
use elastictok::bundle::Bundle;
use elastictok::internals::COARSEST;
use elastictok::internals::entropy::Tables;
use elastictok::internals::tokens::{FilledCells, LayerSteps, NestedEncoder, NestedLayout, Rdo};
use elastictok_tools::dump::DumpReader;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dump, ratio, offsets @ ..] = &args[..] else { bail!("usage: truncate DUMP RATIO OFFSET...") };
    let ratio = ratio.parse::<u8>().with_context(|| format!("ratio '{ratio}' is no number of quantiser indices"))?;
    let offsets = offsets.iter().map(|o| o.parse::<i32>().with_context(|| format!("offset '{o}' is no integer")));
    let offsets = offsets.collect::<Result<Vec<_>>>()?;
    let tables = Tables::parse(&Bundle::resolve("builtin")?.tables)?;
    let mut reader = DumpReader::new(BufReader::new(File::open(dump).with_context(|| format!("cannot read {dump}"))?))?;
    let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
    let mut encoder = None;
    while let Some(block) = reader.next_block()? {
        let encoder = match &mut encoder {
            Some(encoder) => encoder,
            none => {
                let layout = NestedLayout::new(&reader.positions, reader.layers, block.cells_x, block.cells_y)?;
                none.insert(NestedEncoder::new(&layout, &tables)?)
            }
        };
        let motion = (!block.key).then_some(&block.motion[..]);
        let cells = block.cells_x * block.cells_y;
        let (mut latents, mut filled, mut counts) =
            (vec![0i16; cells * reader.positions.len()], FilledCells::default(), vec![0; cells]);
        let finest = block.latents.last().context("a block without latents")?;
        out.write_all(&[u8::from(block.key), block.frames, 0, 0])?;
        out.write_all(&block.motion.iter().flat_map(|m| m.to_le_bytes()).collect::<Vec<_>>())?;
        out.write_all(&finest.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
        for offset in &offsets {
            let quantiser =
                (i32::from(block.steps.quantiser(block.steps.depth() - 1)) + offset).clamp(0, i32::from(COARSEST)) as u8;
            let steps = LayerSteps::spaced(reader.layers, ratio, quantiser);
            encoder.quantise(finest, steps, motion, &Rdo::default())?;
            let mut held = 1;
            for layer in 0..reader.layers {
                let mut segment = Vec::new();
                encoder.write_segment(layer, motion, &mut segment)?;
                if !segment.is_empty() {
                    held = layer + 1;
                }
                encoder.block().dequantise(held, motion, &mut latents, &mut filled, &mut counts)?;
                out.write_all(&[steps.quantiser(held - 1), 0, 0, 0])?;
                out.write_all(&counts.iter().flat_map(|c| c.to_le_bytes()).collect::<Vec<_>>())?;
                out.write_all(&latents.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
            }
        }
    }
    out.flush()?;
    Ok(())
}
