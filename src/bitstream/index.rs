// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index of a file: where its key blocks are, when each is played, and when the file ends. It is made by going from unit
//! to unit without reading payloads.

use std::time::{Duration, Instant};

use super::block_header::BlockHeader;
use super::header::SequenceHeader;
use super::limits::Limits;
use super::track::{Joins, Tracker};
use super::unit::{Parsed, UnitKind, parse_last_unit, parse_unit};

/// Bytes read per unit: enough for its header and the longest block header.
const WINDOW: usize = 512;

/// A key block, and what is needed to place the blocks that depend on it in time.
#[derive(Debug, Clone)]
pub struct KeyBlock {
    /// Where parsing may begin: at the sequence header before it, if there is one.
    pub offset: u64,
    /// When it is played, in ns from the file's first frame.
    pub time: Option<u64>,
    block: BlockHeader,
    /// How time stamps map to playback time from here on.
    joins: Joins,
    /// Which of the file's sequence headers is in force.
    header: usize,
}

/// The key blocks of a file.
#[derive(Debug, Clone, Default)]
pub struct Index {
    headers: Vec<SequenceHeader>,
    keys: Vec<KeyBlock>,
    /// Bytes looked at from the start of the file, up to the end of a unit.
    pub known: u64,
    /// Time stamp of the first frame in ns, where playback begins.
    pub origin: Option<u64>,
    /// When the last frame ends, in ns of playback.
    pub end: Option<u64>,
    /// The whole file is known.
    pub complete: bool,
}

impl Index {
    /// Scans a file of `size` bytes for no longer than `budget`. `read` returns pieces of the file, at most as long as asked
    /// for.
    ///
    /// Fails only where `read` does.
    pub fn scan<B: AsRef<[u8]>, E>(
        size: u64,
        budget: Duration,
        mut read: impl FnMut(u64, usize) -> Result<B, E>,
    ) -> Result<Self, E> {
        let started = Instant::now();
        let mut index = Self::default();
        let mut tracker = Tracker::new(true);
        let mut sequence_at = None;
        let (mut at, mut hops) = (0u64, 0u32);
        while at < size {
            hops = hops.wrapping_add(1);
            if hops.is_multiple_of(256) && started.elapsed() > budget {
                return Ok(index);
            }
            let window = read(at, WINDOW.min(usize::try_from(size - at).unwrap_or(WINDOW)))?;
            let window = window.as_ref();
            if window.is_empty() {
                return Ok(index);
            }
            let limit = tracker.header().map_or(0, |header| header.block_bytes(&Limits::default()));
            let whole = at + window.len() as u64 >= size;
            let (kind, payload, total) = match parse_unit(window, limit) {
                Parsed::Junk(bytes) => {
                    sequence_at = None;
                    at += bytes as u64;
                    continue;
                }
                Parsed::Unit { kind, payload, total } => (kind, payload, total as u64),
                Parsed::NeedMore(needed) => match parse_last_unit(window, limit) {
                    // Its header is in the window, or the file ends within it.
                    Parsed::Unit { kind, payload, total } => (kind, payload, if whole { total } else { needed } as u64),
                    Parsed::Junk(bytes) if whole => {
                        at += bytes as u64;
                        continue;
                    }
                    _ => return Ok(index),
                },
            };
            let unit_at = at;
            at += total.max(1);
            if kind == UnitKind::Sequence {
                sequence_at = Some(unit_at);
                match SequenceHeader::parse(&window[payload]) {
                    Ok(header) => index.take_header(&mut tracker, header),
                    Err(_) => tracker.forget_header(),
                }
            } else if let Some(header) = tracker.header()
                && let Ok((block, _)) = BlockHeader::parse(&window[payload], header.block_length)
            {
                index.take_block(&mut tracker, block, sequence_at.take().unwrap_or(unit_at));
            } else {
                sequence_at = None;
            }
            index.known = at;
        }
        index.complete = index.end.is_some();
        Ok(index)
    }

    fn take_header(&mut self, tracker: &mut Tracker, header: SequenceHeader) {
        match tracker.set_header(header.clone()) {
            Ok(true) => self.headers.push(header),
            Ok(false) => {}
            Err(_) => tracker.forget_header(),
        }
    }

    fn take_block(&mut self, tracker: &mut Tracker, block: BlockHeader, offset: u64) {
        if !tracker.accept(&block) {
            return;
        }
        let Some(times) = tracker.times(&block, None) else { return };
        let place = tracker.place(&block, &times);
        self.origin =
            self.origin.or_else(|| times.frames().first().and_then(|frame| frame.pts).filter(|_| place.start.is_some()));
        self.end = self.end.max(place.end);
        if let (true, Some(header)) = (block.key, self.headers.len().checked_sub(1)) {
            self.keys.push(KeyBlock { offset, time: place.start, block, joins: tracker.joins(), header });
        }
    }

    /// The key blocks in the order of the file.
    pub fn keys(&self) -> &[KeyBlock] {
        &self.keys
    }

    /// Sets `tracker` for reading from `offset` on.
    pub fn resume(&self, tracker: &mut Tracker, offset: u64) {
        let key = self.keys.partition_point(|key| key.offset <= offset).checked_sub(1).map(|at| &self.keys[at]);
        let resumed = key.filter(|_| offset < self.known).is_some_and(|key| {
            self.headers.get(key.header).is_some_and(|header| tracker.resume(header, &key.block, key.joins).is_ok())
        });
        if !resumed {
            tracker.jump();
        }
    }

    /// When the last key block up to `time` is played, or the first of all.
    pub fn before(&self, time: u64) -> Option<u64> {
        let times = || self.keys.iter().filter_map(|key| key.time);
        times().take_while(|&t| t <= time).last().or_else(|| times().next())
    }

    /// When the first key block from `time` on is played, or the last of all.
    pub fn after(&self, time: u64) -> Option<u64> {
        let times = || self.keys.iter().filter_map(|key| key.time);
        times().find(|&t| t >= time).or_else(|| times().next_back())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::bitstream::{FrameTime, StreamWriter, Timeline};
    use crate::frame::PixelFormat;
    use bytes::BytesMut;

    const MS: u64 = 1_000_000;

    fn header(width: u32) -> SequenceHeader {
        SequenceHeader {
            fingerprint: [1; 8],
            width,
            height: 64,
            framerate: (50, 1),
            pixel_aspect_ratio: (1, 1),
            colorimetry: [0, 2, 2, 2],
            chroma_site: 0,
            layers: 4,
            layer_ratio: 8,
            pixel_format: PixelFormat::I420,
            block_length: 2,
        }
    }

    /// Blocks of two frames of 20 ms from `first` ms on, a key block every `interval` blocks, epochs counted from `epoch`.
    fn stream(width: u32, first: u64, blocks: u32, interval: u32, mut epoch: u8) -> Vec<u8> {
        let header = header(width);
        let (mut writer, mut out) = (StreamWriter::new(&header).unwrap(), BytesMut::new());
        let mut timeline = Timeline::new(header.framerate, header.block_length).unwrap();
        for n in 0..blocks {
            let position = n % interval;
            epoch = epoch.wrapping_add(u8::from(n > 0 && position == 0));
            let frame = |i: u64| FrameTime { pts: Some((first + 20 * (2 * u64::from(n) + i)) * MS), duration: Some(20 * MS) };
            let timing = timeline.encode(position, &[frame(0), frame(1)]).unwrap();
            let block = BlockHeader {
                key: position == 0,
                epoch,
                position,
                left_out: 0,
                frames: 2,
                quantiser: 32,
                base_quantiser: None,
                timing,
            };
            let mut data = BytesMut::new();
            block.write(2, &mut data).unwrap();
            writer.write(&data, &mut out).unwrap();
        }
        out.to_vec()
    }

    fn scan(data: &[u8]) -> Index {
        let read = |at: u64, bytes: usize| Ok::<_, ()>(data[at as usize..][..bytes].to_vec());
        Index::scan(data.len() as u64, Duration::from_secs(60), read).unwrap()
    }

    fn times(index: &Index) -> Vec<u64> {
        index.keys().iter().map(|key| key.time.unwrap() / MS).collect()
    }

    #[test]
    fn a_file_that_starts_late_is_timed_from_its_first_frame() {
        let index = scan(&stream(64, 20_000, 7, 3, 9));
        assert_eq!((index.origin, index.end, index.complete), (Some(20_000 * MS), Some(280 * MS), true));
        assert_eq!(times(&index), [0, 120, 240]);
        assert_eq!((index.before(130 * MS), index.after(130 * MS)), (Some(120 * MS), Some(240 * MS)));
    }

    #[test]
    fn joined_files_last_as_long_as_their_sum() {
        let parts = [stream(64, 500, 5, 3, 0), stream(96, 70, 4, 2, 0), stream(64, 90_000, 3, 8, 0)];
        let index = scan(&parts.concat());
        assert_eq!(times(&index), [0, 120, 200, 280, 360]);
        assert_eq!((index.origin, index.end), (Some(500 * MS), Some(480 * MS)));
        let (second, third) = (parts[0].len() as u64, (parts[0].len() + parts[1].len()) as u64);
        assert_eq!((index.keys()[2].offset, index.keys()[4].offset), (second, third));
        let mut tracker = Tracker::default();
        index.resume(&mut tracker, second + 1);
        assert_eq!(tracker.header().map(|header| header.width), Some(96));
        index.resume(&mut tracker, third);
        assert_eq!(tracker.header().map(|header| header.width), Some(64));
    }

    #[test]
    fn junk_and_what_depends_on_nothing_count_for_nothing() {
        let (a, b) = (stream(64, 0, 4, 4, 0), stream(64, 160, 4, 4, 1));
        let headless = &b[..];
        let index = scan(&[&a[..], &[0xe7; 700], headless].concat());
        assert_eq!((times(&index), index.end), (vec![0, 160], Some(320 * MS)));
        assert!(!scan(&[0; 3000]).complete);
        let cut = scan(&a[..a.len() - 3]);
        assert_eq!((cut.complete, cut.keys().len()), (true, 1));
        assert!(Index::scan(10, Duration::ZERO, |_, _| Err::<Vec<u8>, _>("flushing")).is_err());
    }
}
