// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is in a stream, read without a graph: blocks, times, layers, tokens and damage.

use std::path::Path;
use std::sync::Arc;

use elastictok::bitstream::{Block, MAX_LAYERS, SequenceHeader, Timeline, Unit, UnitKind, segment_bytes};
use elastictok::bundle::{Bundle, fingerprint_name};
use elastictok::codec::CountReader;

use crate::stream::Units;

/// Reports of damage that are kept word by word.
const MAX_PROBLEMS: usize = 50;

/// A block.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BlockInfo {
    pub key: bool,
    pub frames: u32,
    /// When its first frame is shown, in seconds.
    pub start: Option<f64>,
    /// How long its frames are shown, in seconds.
    pub duration: f64,
    /// Bytes of the block, without what the byte stream adds.
    pub bytes: u64,
    /// Bytes of each layer.
    pub layers: Vec<u64>,
    /// Layers of the stream that the block was not coded in.
    pub left_out: u8,
    /// Tokens of all cells; `None` where the model is not at hand or the block cannot be read.
    pub tokens: Option<u64>,
    /// It can be decoded, if perhaps not in all layers.
    pub decodes: bool,
}

/// Damage, and where.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Block, counted from 0 through the file.
    pub block: u64,
    pub what: String,
}

/// A whole stream.
#[derive(Debug, Clone)]
pub struct Stream {
    pub header: SequenceHeader,
    /// The model, where it is at hand.
    pub bundle: Option<Arc<Bundle>>,
    pub file_bytes: u64,
    pub blocks: Vec<BlockInfo>,
    pub problems: Vec<Problem>,
    /// All of them, those not kept in `problems` included.
    pub problem_count: u64,
    /// Headers that differ from the one before.
    pub format_changes: u64,
}

/// What the blocks that depend on a sequence header are read with.
struct Section {
    header: SequenceHeader,
    timeline: Timeline,
    counts: Option<CountReader>,
    /// Epoch and position of the last block that decodes.
    context: Option<(u8, u32)>,
}

struct Scanner {
    bundle: Arc<Bundle>,
    section: Option<Section>,
    stream: Option<Stream>,
    seen: u64,
}

/// Reads a stream; `model` is what its tokens are counted with where it made them. `each` is given every block that could be
/// read, and its cells' counts where they are known.
pub fn scan(path: &Path, model: &str, mut each: impl FnMut(&BlockInfo, Option<&[i32]>)) -> anyhow::Result<Stream> {
    let mut units = Units::open(path)?;
    let mut scanner = Scanner { bundle: Bundle::resolve(model)?, section: None, stream: None, seen: 0 };
    while let Some(unit) = units.next()? {
        scanner.take(&unit, &mut each)?;
    }
    let rest = units.rest();
    let mut stream = scanner.stream.ok_or_else(|| units.nothing())?;
    if rest > 0 {
        stream.note(scanner.seen, format!("{rest} bytes at the end belong to no block"));
    }
    stream.file_bytes = units.bytes();
    Ok(stream)
}

impl Scanner {
    fn take(&mut self, unit: &Unit, each: &mut impl FnMut(&BlockInfo, Option<&[i32]>)) -> anyhow::Result<()> {
        if let (1.., Some(stream)) = (unit.skipped, &mut self.stream) {
            stream.note(self.seen, format!("{} bytes before it belong to no block", unit.skipped));
        }
        match unit.kind {
            UnitKind::Sequence => self.header(&unit.payload, unit.skipped),
            UnitKind::Block => {
                self.block(&unit.payload, each);
                self.seen += 1;
                Ok(())
            }
        }
    }

    fn header(&mut self, payload: &[u8], skipped: u64) -> anyhow::Result<()> {
        let header = match SequenceHeader::parse(payload) {
            Ok(header) => header,
            Err(e) => {
                if let Some(stream) = &mut self.stream {
                    stream.note(self.seen, e.to_string());
                    self.section = None;
                    return Ok(());
                }
                // a stream of another version, say: the reason must not be lost
                return Err(e.into());
            }
        };
        if self.section.as_ref().is_some_and(|s| s.header == header) {
            return Ok(());
        }
        let known = self.bundle.fingerprint == header.fingerprint;
        let builtin = Bundle::by_fingerprint(&header.fingerprint)?;
        let bundle = if known { Some(self.bundle.clone()) } else { builtin };
        let counts = bundle.as_ref().and_then(|b| CountReader::new(b, &header).ok());
        let timeline = Timeline::new(header.framerate, header.block_length)?;
        match &mut self.stream {
            Some(stream) => stream.format_changes += u64::from(stream.header != header),
            none => {
                let stream = none.insert(Stream {
                    header: header.clone(),
                    bundle,
                    file_bytes: 0,
                    blocks: Vec::new(),
                    problems: Vec::new(),
                    problem_count: 0,
                    format_changes: 0,
                });
                if skipped > 0 {
                    stream.note(0, format!("{skipped} bytes before it belong to no block"));
                }
            }
        }
        self.section = Some(Section { header, timeline, counts, context: None });
        Ok(())
    }

    fn block(&mut self, payload: &[u8], each: &mut impl FnMut(&BlockInfo, Option<&[i32]>)) {
        let (Some(section), Some(stream)) = (&mut self.section, &mut self.stream) else { return };
        let block = match Block::parse(payload, section.header.block_length) {
            Ok(block) => block,
            Err(e) => {
                section.context = None;
                return stream.note(self.seen, e.to_string());
            }
        };
        let h = block.header();
        let follows =
            h.key || section.context.is_some_and(|(epoch, last)| epoch == h.epoch && h.position == last.wrapping_add(1));
        let mut info = BlockInfo {
            key: h.key,
            frames: h.frames.into(),
            left_out: h.left_out,
            bytes: payload.len() as u64,
            ..Default::default()
        };
        info.layers = block.segments().map_while(Result::ok).map(|s| segment_bytes(s.len()) as u64).collect();
        let times = section.timeline.decode(h.position, h.frames, &h.timing, None);
        let first = times.frames().first().and_then(|t| t.pts);
        let end = times.frames().last().and_then(|t| t.pts?.checked_add(t.duration?));
        info.start = first.map(|t| t as f64 * 1e-9);
        info.duration = match (first, end) {
            (Some(first), Some(end)) if end > first => (end - first) as f64 * 1e-9,
            _ => f64::from(h.frames) * nominal(section.header.framerate),
        };
        let (_, fault) = block.usable();
        let mut damage = fault.map(|f| format!("layer {}: {f}", info.layers.len() + 1));
        let mut usable = !info.layers.is_empty() || damage.is_none();
        let mut counts = None;
        if let Some(reader) = section.counts.as_mut().filter(|_| usable && follows) {
            match reader.read(payload, MAX_LAYERS) {
                Ok(read) => {
                    info.tokens = Some(read.counts.iter().map(|&c| u64::from(c.unsigned_abs())).sum());
                    damage = read.damage.or(damage);
                    counts = Some(read.counts);
                }
                Err(e) => (usable, damage) = (false, Some(e.to_string())),
            }
        }
        info.decodes = usable && follows;
        if let Some(what) = damage {
            stream.note(self.seen, what);
        } else if !follows {
            stream.note(self.seen, "a block before it is missing; it cannot be decoded".into());
        }
        section.context = info.decodes.then_some((h.epoch, h.position));
        each(&info, counts);
        stream.blocks.push(info);
    }
}

/// Seconds of a frame where it does not say.
fn nominal((n, d): (u32, u32)) -> f64 {
    if n == 0 { 0.0 } else { f64::from(d) / f64::from(n) }
}

impl Stream {
    fn note(&mut self, block: u64, what: String) {
        self.problem_count += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { block, what });
        }
    }

    pub fn frames(&self) -> u64 {
        self.blocks.iter().map(|b| u64::from(b.frames)).sum()
    }

    /// Seconds from the first frame to the end of the last.
    pub fn duration(&self) -> f64 {
        let start = self.start();
        let end = self.blocks.iter().filter_map(|b| Some(b.start? + b.duration)).fold(start, f64::max);
        if end > start { end - start } else { self.blocks.iter().map(|b| b.duration).sum() }
    }

    /// When the first frame is shown, in seconds.
    pub fn start(&self) -> f64 {
        let first = self.blocks.iter().filter_map(|b| b.start).fold(f64::INFINITY, f64::min);
        if first.is_finite() { first } else { 0.0 }
    }

    /// kbit/s of the whole file; `None` where nothing says how long it lasts.
    pub fn kbps(&self) -> Option<f64> {
        let seconds = self.duration();
        (seconds > 0.0).then(|| self.file_bytes as f64 * 8e-3 / seconds)
    }

    /// Most layers of a block.
    pub fn layers(&self) -> usize {
        self.blocks.iter().map(|b| b.layers.len()).max().unwrap_or(0)
    }

    /// Bytes of each layer in all blocks.
    pub fn layer_bytes(&self) -> Vec<u64> {
        let mut all = vec![0; self.layers()];
        for block in &self.blocks {
            for (sum, bytes) in all.iter_mut().zip(&block.layers) {
                *sum += bytes;
            }
        }
        all
    }

    /// Least, mean and most tokens of a block.
    pub fn tokens(&self) -> Option<(u64, f64, u64)> {
        let all = || self.blocks.iter().filter_map(|b| b.tokens);
        let n = all().count();
        Some((all().min()?, all().sum::<u64>() as f64 / n as f64, all().max()?))
    }

    /// The model's name, or what is known of it.
    pub fn model_name(&self) -> String {
        match &self.bundle {
            Some(bundle) => bundle.manifest.name.clone(),
            None => format!("unknown ({})", fingerprint_name(&self.header.fingerprint)),
        }
    }
}
