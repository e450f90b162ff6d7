// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many blocks a second the thinner passes on one core, without GStreamer.
//!
//! `thin_speed FILE.etok [KBIT]` keeps the blocks of a byte stream in memory and thins them to half their bitrate, or to KBIT kbit/s,
//! again and again for about two seconds.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use elastictok::bitstream::{MAX_LAYERS, Parsed, SequenceHeader, Thinner, UnitKind, parse_unit, thin};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (file, kbits) = match &args[..] {
        [file] => (file, None),
        [file, kbits] => (file, Some(kbits.parse::<f64>().with_context(|| format!("'{kbits}' is no number of kbit/s"))?)),
        _ => bail!("usage: thin_speed FILE.etok [KBIT]"),
    };
    let data = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
    let (mut blocks, mut seconds, mut rest) = (Vec::new(), 1.0 / 15.0, &data[..]);
    while let Parsed::Unit { kind, payload, total } = parse_unit(rest, data.len()) {
        let payload = &rest[payload];
        match kind {
            UnitKind::Sequence => {
                let header = SequenceHeader::parse(payload)?;
                if header.framerate.0 > 0 {
                    seconds = f64::from(header.block_length) * f64::from(header.framerate.1) / f64::from(header.framerate.0);
                }
            }
            UnitKind::Block => blocks.push(payload),
        }
        rest = &rest[total..];
    }
    if blocks.is_empty() {
        bail!("{file} has no block");
    }
    let bytes: usize = blocks.iter().map(|block| block.len()).sum();
    let layers = |block: &&[u8]| (1..MAX_LAYERS).find(|&n| thin(block, n).is_ok_and(|kept| kept.len() == block.len()));
    let most = blocks.iter().filter_map(layers).max().unwrap_or(MAX_LAYERS);
    let rate = bytes as f64 * 8.0 / (seconds * blocks.len() as f64);
    let mut thinner = Thinner::default();
    thinner.set_limits(0, kbits.map_or(rate / 2.0, |kbits| kbits * 1000.0));
    let (mut passed, mut count) = (0u64, 0u64);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        for block in &blocks {
            passed += thinner.cut(black_box(block), seconds)?.len() as u64;
            black_box(thinner.wants_key());
        }
        count += blocks.len() as u64;
    }
    let took = started.elapsed().as_secs_f64();
    println!(
        "{:.2} million blocks/s on one core, {:.0} ns each; of {} layers, {:.0} % of the bytes pass",
        count as f64 / took * 1e-6,
        took / count as f64 * 1e9,
        most,
        100.0 * passed as f64 / (count as f64 * bytes as f64 / blocks.len() as f64),
    );
    Ok(())
}
