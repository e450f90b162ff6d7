// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the next unit lies in what has come in, and which time stamp belongs to it.

use elastictok::Error;
use elastictok::bitstream::{Limits, Parsed, SequenceHeader, UnitKind, parse_last_unit, parse_unit};

/// Enough to see of most units how long they are.
const PEEK: usize = 512;

/// What stands next in the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Too little to say.
    NeedData,
    /// This many bytes belong to no unit.
    Skip(usize),
    /// A unit whose payload of `bytes` comes after `skip` bytes.
    Unit { kind: UnitKind, skip: usize, bytes: usize, pts: Option<gst::ClockTime> },
}

/// Cuts the input into units.
#[derive(Debug, Default)]
pub struct Input {
    packetized: bool,
    max_block_bytes: usize,
    /// Not to be looked at again before this many bytes are there.
    needed: usize,
    /// Time stamp of a buffer that began with a unit, until a block takes it.
    pts: Option<gst::ClockTime>,
}

impl Input {
    pub fn set_packetized(&mut self, packetized: bool) {
        self.packetized = packetized;
        self.needed = 0;
    }

    pub fn set_header(&mut self, header: &SequenceHeader) {
        self.max_block_bytes = Limits::default().block_bytes(header);
    }

    /// After a header that was refused: there are no blocks until the next one.
    pub fn forget_header(&mut self) {
        self.max_block_bytes = 0;
    }

    /// Forgets what began before a seek; the header stays.
    pub fn flush(&mut self) {
        self.needed = 0;
        self.pts = None;
    }

    /// Looks at the front of `adapter`; `timed`: its buffers' time stamps are those of blocks.
    pub fn next(&mut self, adapter: &gst_base::Adapter, at_eos: bool, timed: bool) -> Result<Found, Error> {
        let available = adapter.available();
        if available == 0 {
            return Ok(Found::NeedData);
        }
        let (pts, distance) = adapter.prev_pts();
        let fresh = pts.filter(|_| timed && distance == 0);
        if self.packetized {
            // One buffer at a time comes in and is taken whole.
            return Ok(Found::Unit { kind: UnitKind::Block, skip: 0, bytes: available, pts: fresh });
        }
        if available < self.needed && !at_eos {
            return Ok(Found::NeedData);
        }
        self.needed = 0;
        self.pts = fresh.or(self.pts);
        Ok(match self.examine(adapter, available, at_eos)? {
            Parsed::NeedMore(needed) => {
                self.needed = needed;
                Found::NeedData
            }
            Parsed::Junk(bytes) => {
                self.pts = None;
                Found::Skip(bytes)
            }
            Parsed::Unit { kind, payload, .. } => {
                let pts = if kind == UnitKind::Block { self.pts.take() } else { None };
                Found::Unit { kind, skip: payload.start, bytes: payload.len(), pts }
            }
        })
    }

    /// Looks at few bytes first: to look at all of them each time that some arrive would copy a long block again and again.
    fn examine(&self, adapter: &gst_base::Adapter, available: usize, at_eos: bool) -> Result<Parsed, Error> {
        let mut look = available.min(PEEK);
        loop {
            let unreadable = |_| Error::Malformed("an input buffer that cannot be read".into());
            let buffer = adapter.buffer(look).map_err(unreadable)?;
            let data = buffer.map_readable().map_err(unreadable)?;
            match parse_unit(&data, self.max_block_bytes) {
                Parsed::NeedMore(needed) if needed <= available => look = needed.max(look + 1),
                Parsed::NeedMore(_) if at_eos && look < available => look = available,
                Parsed::NeedMore(_) if at_eos => return Ok(parse_last_unit(&data, self.max_block_bytes)),
                other => return Ok(other),
            }
        }
    }
}
