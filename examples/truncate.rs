// SPDX-License-Identifier: MIT OR Apache-2.0
//! What receivers of fewer layers have: quantises the blocks of a dump again and writes the latents of every truncation.
//!
//! `truncate DUMP OFFSET...` reads what `codec dump` wrote and quantises every block in all L layers with its own quantiser plus each
//! OFFSET, cut to the range that the encoder uses. To standard output go, for every block, offset and count of layers 1..=L: quantiser u8,
//! layers that hold anything u8 (never more than the count), zero u16, counts i32\[cells\], latents i16\[cells * C\] in the order of
//! tokens; little-endian. Training of the encoder graph's `distortion` reads them.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};

use anyhow::{Context as _, Result, bail};
use elastictok::bundle::Bundle;
use elastictok::entropy::Tables;
use elastictok::rate::COARSEST;
use elastictok::tokens::train::DumpReader;
use elastictok::tokens::{NestedEncoder, NestedLayout, Rdo};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dump, offsets @ ..] = &args[..] else { bail!("usage: truncate DUMP OFFSET...") };
    let offsets = offsets.iter().map(|o| o.parse::<i32>().with_context(|| format!("offset '{o}' is no integer")));
    let offsets = offsets.collect::<Result<Vec<_>>>()?;
    let tables = Tables::parse(&Bundle::resolve("builtin")?.tables)?;
    let mut reader = DumpReader::new(BufReader::new(File::open(dump).with_context(|| format!("cannot read {dump}"))?))?;
    let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
    let mut encoder = None;
    while let Some(record) = reader.next_record()? {
        let encoder = match &mut encoder {
            Some(encoder) => encoder,
            none => {
                let layout = NestedLayout::new(&reader.positions, reader.levels, record.cells_x, record.cells_y)?;
                none.insert(NestedEncoder::new(&layout, &tables)?)
            }
        };
        let motion = (!record.key).then_some(&record.motion[..]);
        let cells = record.cells_x * record.cells_y;
        let (mut latents, mut counts) = (vec![0; cells * reader.positions.len()], vec![0; cells]);
        for offset in &offsets {
            let quantiser = (i32::from(record.quantiser) + offset).clamp(0, i32::from(COARSEST)) as u8;
            let finest = record.latents.last().context("a block without latents")?;
            encoder.quantise(finest, quantiser, reader.levels, motion, &Rdo::default())?;
            let mut held = 1;
            for level in 0..reader.levels {
                let mut segment = Vec::new();
                encoder.write_segment(level, motion, &mut segment)?;
                if !segment.is_empty() {
                    held = level + 1;
                }
                encoder.dequantise(held, motion, &mut latents, &mut counts)?;
                out.write_all(&[quantiser, held as u8, 0, 0])?;
                out.write_all(&counts.iter().flat_map(|c| c.to_le_bytes()).collect::<Vec<_>>())?;
                out.write_all(&latents.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
            }
        }
    }
    out.flush()?;
    Ok(())
}
