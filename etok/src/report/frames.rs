// SPDX-License-Identifier: MIT OR Apache-2.0
//! A stream's pictures, by as many layers as wanted.

use std::path::Path;
use std::sync::Arc;

use elastictok::Error;
use elastictok::bitstream::{Limits, SequenceHeader, UnitKind};
use elastictok::bundle::Bundle;
use elastictok::codec::{Decoder, DecoderConfig};
use elastictok::runtime::{ExecutionProvider, RuntimeConfig};

use crate::cli::{ModelArgs, Provider};
use crate::picture::Picture;
use crate::stream::Units;

/// A picture of a stream, on its way.
pub struct Frame<'a> {
    /// Block that it is of, as the scan counts them.
    pub block: usize,
    /// Its place in the block.
    pub index: usize,
    /// When it is shown, in seconds.
    pub time: Option<f64>,
    pub picture: &'a Picture,
}

fn runtime(args: &ModelArgs) -> RuntimeConfig {
    let provider = match args.provider {
        Provider::Auto => ExecutionProvider::Auto,
        Provider::Cpu => ExecutionProvider::Cpu,
        Provider::Cuda => ExecutionProvider::Cuda,
        Provider::Tensorrt => ExecutionProvider::TensorRt,
    };
    RuntimeConfig { provider, threads: args.threads as usize, ..Default::default() }
}

/// Decodes a stream by its first `layers` layers, as a receiver of a stream so thinned sees it. Of the blocks only those with `true`
/// in `wanted` are decoded; they must begin at key blocks. A block that cannot be decoded shows the picture before it.
pub fn decode(
    path: &Path,
    bundle: &Arc<Bundle>,
    header: &SequenceHeader,
    args: &ModelArgs,
    layers: usize,
    wanted: &[bool],
    mut each: impl FnMut(Frame<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let config = DecoderConfig {
        bundle: bundle.clone(),
        runtime: runtime(args),
        header: header.clone(),
        max_layers: Some(layers),
        limits: Limits::default(),
    };
    let mut decoder = Decoder::new(config)?;
    let mut picture = Picture::new(header.pixel_format, header.width as usize, header.height as usize);
    let mut units = Units::open(path)?;
    // as the scan does: only blocks with a readable header count
    let mut block = 0;
    while let Some(unit) = units.next()? {
        if unit.kind != UnitKind::Block || elastictok::bitstream::BlockHeader::parse(&unit.payload, header.block_length).is_err()
        {
            continue;
        }
        let at = block;
        block += 1;
        if !wanted.get(at).copied().unwrap_or(false) {
            continue;
        }
        let refused = match decoder.decode(&unit.payload, None) {
            Ok(_) => false,
            Err(Error::Malformed(_) | Error::ContextLost(_) | Error::Limit(_)) => true,
            Err(e) => return Err(e.into()),
        };
        let shown = if refused { decoder.repeat(&unit.payload, None) } else { Some(decoder.block()) };
        let Some(shown) = shown else { continue };
        for index in 0..shown.frames() {
            shown.store(index, &mut picture.planes_mut())?;
            let time = shown.time(index).pts.map(|t| t as f64 * 1e-9);
            each(Frame { block: at, index, time, picture: &picture })?;
        }
    }
    Ok(())
}
