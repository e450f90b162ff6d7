// SPDX-License-Identifier: MIT OR Apache-2.0
//! `etok thin`: cuts layers off, without decoding.

use bytes::BytesMut;
use elastictok::bitstream::{BlockHeader, SequenceHeader, StreamWriter, Thinner, Timeline, UnitKind, thin};

use crate::cli::ThinArgs;
use crate::failure::{Exit, input};
use crate::output::Destination;
use crate::stream::Units;
use crate::text;

/// Seconds of a frame in streams that do not say.
const USUAL_FRAME: f64 = 1.0 / 30.0;

struct Section {
    header: SequenceHeader,
    writer: StreamWriter,
    timeline: Timeline,
    /// When the last block began, in ns.
    last: Option<u64>,
}

impl Section {
    fn new(header: SequenceHeader) -> anyhow::Result<Self> {
        let writer = StreamWriter::new(&header)?;
        let timeline = Timeline::new(header.framerate, header.block_length)?;
        Ok(Self { header, writer, timeline, last: None })
    }

    /// How long a block's frames are shown, in seconds.
    fn seconds(&mut self, block: &[u8]) -> Option<f64> {
        let (header, _) = BlockHeader::parse(block, self.header.block_length).ok()?;
        let times = self.timeline.decode(header.position, header.frames, &header.timing, None);
        let start = times.frames().first().and_then(|f| f.pts);
        let own = times.frames().iter().map(|f| f.duration).sum::<Option<u64>>().filter(|d| *d > 0);
        let since = start.zip(self.last).and_then(|(now, last)| now.checked_sub(last)).filter(|d| *d > 0);
        self.last = start;
        let usual = f64::from(header.frames) * USUAL_FRAME;
        Some(own.or(since).map_or(usual, |ns| ns as f64 * 1e-9))
    }
}

pub fn run(args: &ThinArgs) -> anyhow::Result<Exit> {
    let place = Destination::new(&args.output, args.common.force, [args.input.as_path()])?;
    let mut units = Units::open(&args.input)?;
    let mut writer = place.writer();
    let mut thinner = Thinner::default();
    thinner.set_limits(args.layers.unwrap_or(0) as usize, f64::from(args.bitrate.unwrap_or(0)) * 1000.0);
    let mut section: Option<Section> = None;
    let mut out = BytesMut::new();
    let (mut blocks, mut written, mut seconds, mut broken) = (0u64, 0u64, 0.0, 0u64);
    // what the thinner is told: how long it is since the block before
    let (mut only_first, mut since) = (true, 0.0);
    while let Some(unit) = units.next()? {
        match (unit.kind, &mut section) {
            (UnitKind::Sequence, _) => match SequenceHeader::parse(&unit.payload) {
                Ok(header) if section.as_ref().is_some_and(|s| s.header == header) => {}
                Ok(header) => section = Some(Section::new(header)?),
                Err(e) if section.is_none() => return Err(e.into()),
                Err(_) => broken += 1,
            },
            (UnitKind::Block, Some(section)) => {
                blocks += 1;
                let Some(length) = section.seconds(&unit.payload) else {
                    broken += 1;
                    continue;
                };
                seconds += length;
                // what cannot be cut passes as it is, for the decoder to make the best of
                let kept = thinner.cut(&unit.payload, since).unwrap_or_else(|_| {
                    broken += 1;
                    &unit.payload
                });
                since = length;
                only_first &= thin(&unit.payload, 1).is_ok_and(|first| first.len() == kept.len());
                section.writer.write(kept, &mut out)?;
                written += out.len() as u64;
                writer.write(&out)?;
                out.clear();
            }
            (UnitKind::Block, None) => {}
        }
    }
    writer.finish()?;
    if blocks == 0 {
        return Err(if section.is_some() { input(format!("{} has no block", units.name())) } else { units.nothing() });
    }
    if !args.common.quiet {
        let rate = |bytes: u64| if seconds > 0.0 { text::bitrate(bytes as f64 * 8e-3 / seconds) } else { "?".into() };
        eprintln!(
            "{}: {} of {} bytes, {} of {}",
            place.name(),
            text::grouped(written),
            text::grouped(units.bytes()),
            rate(written),
            rate(units.bytes())
        );
        if let Some(asked) =
            args.bitrate.filter(|b| only_first && seconds > 1.0 && written as f64 * 8e-3 / seconds > f64::from(*b) * 1.1)
        {
            eprintln!(
                "etok: {asked} kbit/s cannot be reached by cutting: the first layer is always kept; encode at a lower quality"
            );
        }
        if broken > 0 {
            eprintln!("etok: {} damaged; etok info says more", text::count(broken, "block"));
        }
    }
    Ok(Exit::Done)
}
