// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the key blocks of a file are and when it ends, found by hopping from unit to unit without reading them.

use std::time::{Duration, Instant};

use elastictok::bitstream::{BlockHeader, Limits, Parsed, SequenceHeader, UnitKind, parse_last_unit, parse_unit};
use elastictok::timing::{BlockTimes, Timeline};

/// Bytes looked at per unit: its header, and the longest block header.
const WINDOW: u32 = 512;
/// Files that take longer are left to the base class's estimates.
const BUDGET: Duration = Duration::from_secs(1);

/// A key block, with what it takes to time the blocks that hang on it.
#[derive(Debug, Clone)]
pub struct Key {
    /// Where parsing may begin: at the sequence header before it, if there is one.
    pub offset: u64,
    pub pts: Option<gst::ClockTime>,
    pub header: BlockHeader,
}

#[derive(Debug, Clone, Default)]
pub struct Index {
    keys: Vec<Key>,
    /// Bytes looked at from the start of the file.
    known: u64,
    /// When the last frame ends.
    pub end: Option<gst::ClockTime>,
    /// The whole file is known, and its times rise.
    pub complete: bool,
}

impl Index {
    /// Scans a file of `size` bytes, which `read` gives pieces of (at most as long as asked for).
    pub fn scan(size: u64, mut read: impl FnMut(u64, u32) -> Option<gst::Buffer>) -> Self {
        let started = Instant::now();
        let mut index = Self::default();
        let mut stream: Option<(SequenceHeader, Timeline, Option<u8>)> = None;
        let mut sequence_at = None;
        let (mut at, mut hops) = (0u64, 0u32);
        while at < size {
            hops = hops.wrapping_add(1);
            if hops.is_multiple_of(256) && started.elapsed() > BUDGET {
                return index;
            }
            let Some(buffer) = read(at, WINDOW.min(u32::try_from(size - at).unwrap_or(WINDOW))) else { return index };
            let Ok(window) = buffer.map_readable() else { return index };
            let limit = stream.as_ref().map_or(0, |s| Limits::default().block_bytes(&s.0));
            let whole = at + window.len() as u64 >= size;
            let (kind, payload, total) = match parse_unit(&window, limit) {
                Parsed::Junk(bytes) => {
                    sequence_at = None;
                    at += bytes as u64;
                    continue;
                }
                Parsed::Unit { kind, payload, total } => (kind, payload, total as u64),
                Parsed::NeedMore(needed) => match parse_last_unit(&window, limit) {
                    // Its header is in the window, or the file ends within it.
                    Parsed::Unit { kind, payload, total } => (kind, payload, if whole { total as u64 } else { needed as u64 }),
                    _ => return index,
                },
            };
            let unit_at = at;
            at += total.max(1);
            if kind == UnitKind::Sequence {
                sequence_at = Some(unit_at);
                if let Ok(header) = SequenceHeader::parse(&window[payload])
                    && stream.as_ref().is_none_or(|s| s.0 != header)
                {
                    let Ok(timeline) = Timeline::new(header.framerate, header.block_length) else { return index };
                    stream = Some((header, timeline, None));
                }
                continue;
            }
            let before = sequence_at.take();
            let Some((header, timeline, epoch)) = &mut stream else { continue };
            let Ok((block, _)) = BlockHeader::parse(&window[payload], header.block_length) else { continue };
            if block.key {
                *epoch = Some(block.epoch);
            } else if *epoch != Some(block.epoch) {
                continue;
            }
            let times = timeline.decode(block.position, block.frames, &block.timing, None);
            let (pts, duration) = span(&times);
            if block.key {
                if pts.is_some() && pts < index.keys.last().and_then(|k| k.pts) {
                    return index;
                }
                index.keys.push(Key { offset: before.unwrap_or(unit_at), pts, header: block });
            }
            index.end = pts.map(|t| t + duration.unwrap_or_default()).max(index.end);
            index.known = at;
        }
        index.complete = index.end.is_some();
        index
    }

    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The key block that what stands at `offset` hangs on, if that is known.
    pub fn key_at(&self, offset: u64) -> Option<&Key> {
        let key = self.keys.partition_point(|k| k.offset <= offset).checked_sub(1)?;
        (offset < self.known).then(|| &self.keys[key])
    }

    /// The last key block up to `time`, or the first of all.
    pub fn before(&self, time: gst::ClockTime) -> Option<gst::ClockTime> {
        let times = || self.keys.iter().filter_map(|k| k.pts);
        times().take_while(|&t| t <= time).last().or_else(|| times().next())
    }

    /// The first key block from `time` on, or the last of all.
    pub fn after(&self, time: gst::ClockTime) -> Option<gst::ClockTime> {
        let times = || self.keys.iter().filter_map(|k| k.pts);
        times().find(|&t| t >= time).or_else(|| times().next_back())
    }
}

/// When a block begins, and how long it is shown.
pub fn span(times: &BlockTimes) -> (Option<gst::ClockTime>, Option<gst::ClockTime>) {
    let time = |ns: Option<u64>| ns.and_then(|t| gst::ClockTime::try_from(t).ok());
    let frames = times.frames();
    let pts = frames.first().and_then(|f| time(f.pts));
    let end = frames.last().and_then(|f| f.pts?.checked_add(f.duration?)).and_then(|t| time(Some(t)));
    let length = pts.zip(end).and_then(|(pts, end)| end.checked_sub(pts));
    let sum = || frames.iter().map(|f| f.duration).sum::<Option<u64>>().and_then(|t| time(Some(t)));
    (pts, length.or_else(sum))
}
