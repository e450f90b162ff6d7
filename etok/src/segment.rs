// SPDX-License-Identifier: MIT OR Apache-2.0
//! `etok segment`: a stream as media segments, for HTTP servers.

use std::path::Path;

use bytes::BytesMut;
use elastictok::bitstream::{
    BlockHeader, MAX_MEDIA_INDEX_BYTES, MediaIndex, MediaSegmentEntry, MediaSegmentWriter, SequenceHeader, Tracker, UnitKind,
};

use crate::cli::SegmentArgs;
use crate::failure::{self, Exit, input, output, usage};
use crate::output::Destination;
use crate::stream::Units;
use crate::text;

/// The index's name in its folder.
pub const INDEX: &str = "index.json";
/// ns of a frame in streams that do not say.
const USUAL_FRAME: u64 = 1_000_000_000 / 30;

/// Writes media segments into a folder, and at last the index.
struct Folder<'a> {
    args: &'a SegmentArgs,
    index: MediaIndex,
    data: BytesMut,
    bytes: u64,
}

impl Folder<'_> {
    fn write(&mut self, writer: &mut MediaSegmentWriter, duration_ns: u64) -> anyhow::Result<()> {
        self.data.clear();
        let layer_ends = writer.finish(&mut self.data)?;
        let uri = format!("{:05}.etoks", self.index.segments.len());
        if self.index.segments.is_empty() {
            let folder = &self.args.folder;
            std::fs::create_dir_all(folder).map_err(|e| failure::writing(&folder.display().to_string(), &e))?;
            // An old index would describe other files, should this run end early.
            let _ = std::fs::remove_file(folder.join(INDEX));
        }
        self.save(&uri, &self.data)?;
        self.bytes += self.data.len() as u64;
        self.index.segments.push(MediaSegmentEntry { uri, duration_ns, layer_ends });
        Ok(())
    }

    fn save(&self, name: &str, data: &[u8]) -> anyhow::Result<()> {
        let path = self.args.folder.join(name);
        let mut writer = Destination::new(&path, self.args.common.force, [self.args.input.as_path()])?.writer();
        writer.write(data)?;
        writer.finish()
    }
}

/// A media segment being collected.
struct Open {
    writer: MediaSegmentWriter,
    header: SequenceHeader,
    /// When its first frame is played, and when the last one so far ends, in ns.
    start: Option<u64>,
    end: Option<u64>,
    frames: u64,
}

impl Open {
    /// Its length, where the next one begins at `next`.
    fn duration(&self, next: Option<u64>) -> u64 {
        let known = next.or(self.end).zip(self.start).and_then(|(end, start)| end.checked_sub(start)).filter(|&ns| ns > 0);
        let (num, den) = self.header.framerate;
        let frame = if num > 0 { 1_000_000_000 * u64::from(den) / u64::from(num) } else { USUAL_FRAME };
        known.unwrap_or_else(|| self.frames.saturating_mul(frame))
    }
}

fn folder(path: &Path, force: bool) -> anyhow::Result<()> {
    if path == Path::new("-") {
        return Err(usage("media segments are files; name a folder for them"));
    }
    if path.exists() && !path.is_dir() {
        return Err(output(format!("{} is not a folder; name one for the media segments", path.display())));
    }
    if path.join(INDEX).exists() && !force {
        return Err(output(format!("{} exists; add --force to replace it", path.join(INDEX).display())));
    }
    Ok(())
}

pub fn run(args: &SegmentArgs) -> anyhow::Result<Exit> {
    folder(&args.folder, args.common.force)?;
    let mut units = Units::open(&args.input)?;
    let least = (args.duration * 1e9) as u64;
    let mut tracker = Tracker::new(true);
    let mut made: Option<Folder<'_>> = None;
    let mut open: Option<Open> = None;
    let mut dropped = 0u64;
    while let Some(unit) = units.next()? {
        if unit.kind == UnitKind::Sequence {
            match SequenceHeader::parse(&unit.payload) {
                Ok(header) => drop(tracker.set_header(header)?),
                Err(e) if made.is_none() => return Err(e.into()),
                Err(_) => tracker.forget_header(),
            }
            continue;
        }
        let Some(header) = tracker.header().cloned() else { continue };
        let Ok((block, _)) = BlockHeader::parse(&unit.payload, header.block_length) else { continue };
        let place = if tracker.accept(&block) {
            tracker.times(&block, None).map(|times| tracker.place(&block, &times)).unwrap_or_default()
        } else {
            Default::default()
        };
        if made.is_none() {
            let index = MediaIndex::new(header.width, header.height, header.framerate);
            made = Some(Folder { args, index, data: BytesMut::new(), bytes: 0 });
        }
        let Some(into) = &mut made else { continue };
        if block.key
            && let Some(last) = &mut open
            && (last.header != header || last.duration(place.start) >= least)
        {
            let duration = last.duration(place.start);
            into.write(&mut last.writer, duration)?;
            open = None;
        }
        if open.is_none() && block.key {
            let writer = MediaSegmentWriter::new(&header)?;
            open = Some(Open { writer, header, start: place.start, end: None, frames: 0 });
        }
        let Some(open) = &mut open else {
            dropped += 1;
            continue;
        };
        open.writer.push(&unit.payload)?;
        open.end = open.end.max(place.end);
        open.frames += u64::from(block.frames);
    }
    let (Some(mut into), Some(mut last)) = (made, open) else {
        return Err(if tracker.header().is_some() {
            input(format!("{} has no key block", units.name()))
        } else {
            units.nothing()
        });
    };
    let duration = last.duration(None);
    into.write(&mut last.writer, duration)?;
    let json = into.index.to_json();
    if json.len() > MAX_MEDIA_INDEX_BYTES {
        return Err(output("the index is too long for players; make longer media segments (--duration)"));
    }
    into.save(INDEX, json.as_bytes())?;
    if !args.common.quiet {
        let rates: Vec<_> = (1..=into.index.layers())
            .map(|n| into.index.bitrate(n).map_or("?".into(), |rate| text::bitrate(rate * 1e-3)))
            .collect();
        eprintln!(
            "{}: {}, {} bytes; {} by number of layers",
            args.folder.join(INDEX).display(),
            text::count(into.index.segments.len() as u64, "media segment"),
            text::grouped(into.bytes),
            rates.join(", ")
        );
        if dropped > 0 {
            eprintln!("etok: {} before the first key block left out", text::count(dropped, "block"));
        }
    }
    Ok(Exit::Done)
}
