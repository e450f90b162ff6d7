// SPDX-License-Identifier: MIT OR Apache-2.0
//! Seeks, the index that makes them exact, and the segment that goes downstream.

use std::time::Duration;

use elastictok::bitstream::Index;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;

use super::state::{CAT, ElasticTokParse};
use super::stream::{Arrival, Estimate, Snap};
use crate::common::lock;

/// Files that take longer to scan are left to the base class's estimates.
const BUDGET: Duration = Duration::from_secs(1);

impl ElasticTokParse {
    /// Scans a file once, for exact seeks and its duration. Fails if a flush or the end of the element comes between.
    pub(super) fn build_index(&self) -> Result<(), gst::FlowError> {
        let obj = self.obj();
        let sink = obj.sink_pad();
        if sink.mode() != gst::PadMode::Pull || lock(&self.state).index.is_some() {
            return Ok(());
        }
        let Some(size) = sink.peer_query_duration::<gst::format::Bytes>().map(|b| *b) else { return Ok(()) };
        let read = |at, bytes: usize| match sink.pull_range(at, bytes as u32) {
            Ok(buffer) => Ok(buffer.into_mapped_buffer_readable().ok()),
            Err(gst::FlowError::Flushing) => Err(gst::FlowError::Flushing),
            Err(_) => Ok(None),
        };
        self.use_index(Index::scan(size, BUDGET, |at, bytes| read(at, bytes).map(Window))?, size);
        Ok(())
    }

    /// Takes the index of a file of `size` bytes, or of its beginning.
    pub(super) fn use_index(&self, index: Index, size: u64) {
        let obj = self.obj();
        gst::debug!(CAT, imp = self, "{} key blocks, end {:?}, complete {}", index.keys().len(), index.end, index.complete);
        for key in index.keys() {
            if let Some(time) = key.time.and_then(|time| gst::ClockTime::try_from(time).ok()) {
                obj.add_index_entry(key.offset, time, true, true);
            }
        }
        // In a file that is pulled, the base class looks for the last block itself.
        let pushed = obj.sink_pad().mode() == gst::PadMode::Push;
        let guess = index.end.filter(|_| pushed).and_then(|end| extrapolate(end, index.known, size));
        self.set_end(if index.complete { index.end } else { guess });
        let estimate = (pushed && !index.complete).then_some(Estimate { size, next: index.known });
        let mut state = lock(&self.state);
        (state.index, state.estimate) = (Some(index), estimate);
    }

    fn set_end(&self, end: Option<u64>) {
        // The base class counts in signed numbers.
        if let Some(end) = end.filter(|&end| end > 0 && i64::try_from(end).is_ok()) {
            self.obj().set_duration(gst::ClockTime::from_nseconds(end), 0);
        }
    }

    /// Estimates the duration again when a quarter more of the file has come than at the last estimate.
    pub(super) fn refine_duration(&self) {
        let end = {
            let mut state = lock(&self.state);
            let (offset, stamp) = (state.offset, state.stamp);
            let Some(estimate) = state.estimate.as_mut().filter(|estimate| offset >= estimate.next) else { return };
            estimate.next = offset.saturating_add(offset / 4).min(estimate.size.max(offset + 1));
            let size = estimate.size;
            stamp.start.and_then(|start| extrapolate((start + stamp.duration.unwrap_or_default()).nseconds(), offset, size))
        };
        self.set_end(end);
    }

    pub(super) fn seek(&self, event: gst::Event) -> bool {
        let gst::EventView::Seek(seek) = event.view() else { return self.parent_src_event(event) };
        let (rate, flags, start_type, start, stop_type, stop) = seek.get();
        if rate < 0.0 {
            gst::info!(CAT, imp = self, "blocks depend on those before them, so playing backwards is not supported");
            return false;
        }
        let pull = self.obj().sink_pad().mode() == gst::PadMode::Pull;
        if lock(&self.state).timed && !pull {
            return self.parent_src_event(event);
        }
        let target = match (start_type, start) {
            (gst::SeekType::Set, gst::GenericFormattedValue::Time(Some(time))) => time,
            // For example to change the rate only: from the present position.
            (gst::SeekType::None, gst::GenericFormattedValue::Time(_)) => {
                match self.obj().src_pad().query_position::<gst::ClockTime>() {
                    Some(time) => time,
                    None => return self.parent_src_event(event),
                }
            }
            _ => return self.parent_src_event(event),
        };
        let exact = {
            let mut state = lock(&self.state);
            if !pull {
                state.arrival = Arrival::Seeking;
                state.flags = Some(segment_flags(flags));
                state.snap = Snap::NotBefore;
            }
            let index = state.index.as_ref().filter(|index| index.complete);
            index.map(|index| snapped(index, target, flags))
        };
        // The base class uses its index only for accurate seeks; otherwise it estimates from the bitrate.
        let accuracy = if exact.is_some() { gst::SeekFlags::ACCURATE } else { gst::SeekFlags::empty() };
        let exact = gst::event::Seek::builder(
            rate,
            flags | accuracy,
            gst::SeekType::Set,
            gst::GenericFormattedValue::Time(Some(exact.unwrap_or(target))),
            stop_type,
            stop,
        )
        .seqnum(event.seqnum())
        .build();
        let done = self.parent_src_event(exact);
        if !done {
            let mut state = lock(&self.state);
            if state.arrival == Arrival::Seeking {
                state.arrival = Arrival::Onwards;
            }
        }
        done
    }

    /// Makes the segment at the source pad begin at the first frame. The base class has pushed one in playback time.
    pub(super) fn correct_segment(&self) {
        let src = self.obj().src_pad().clone();
        let Some(event) = src.sticky_event::<gst::event::Segment>(0) else { return };
        let Some(segment) = event.segment().downcast_ref::<gst::ClockTime>() else { return };
        let corrected = {
            let mut state = lock(&self.state);
            let origin = state.origin;
            let known = state.segment.as_ref().is_some_and(|(known, with)| known == segment && *with == origin);
            if state.timed || (known && state.snap == Snap::Exact) {
                return;
            }
            let mut corrected = segment.clone();
            // The first time stamp came late, and the segment was corrected without it.
            let moved = |time: Option<gst::ClockTime>| time.map(|time| time.saturating_add(origin.unwrap_or_default()));
            let first = state.stamp.start;
            let start = match std::mem::take(&mut state.snap) {
                Snap::Exact => None,
                Snap::Whole => Some(gst::ClockTime::ZERO),
                Snap::NotBefore => first.filter(|&first| Some(first) > segment.start()),
                Snap::FirstBlock => first,
            };
            if let Some(start) = start {
                corrected.set_start(start);
                corrected.set_time(start);
                corrected.set_position(start);
            }
            corrected.set_start(moved(corrected.start()));
            corrected.set_stop(moved(corrected.stop()));
            corrected.set_position(moved(corrected.position()));
            if let Some(flags) = state.flags {
                corrected.set_flags(corrected.flags() | flags);
            }
            state.segment = Some((corrected.clone(), origin));
            corrected
        };
        if corrected != *segment {
            let event = gst::event::Segment::builder(&corrected).seqnum(event.seqnum()).build();
            src.push_event(event);
        }
    }
}

/// When a file of `size` bytes ends whose first `known` bytes end at `end`.
fn extrapolate(end: u64, known: u64, size: u64) -> Option<u64> {
    u64::try_from(u128::from(end) * u128::from(size.max(known)) / u128::from(known.max(1))).ok()
}

/// Bytes of a file; empty where there are none.
struct Window(Option<gst::MappedBuffer<gst::buffer::Readable>>);

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |mapped| mapped.as_slice())
    }
}

/// The position at which playback starts after a seek to `target`.
fn snapped(index: &Index, target: gst::ClockTime, flags: gst::SeekFlags) -> gst::ClockTime {
    let time = target.nseconds();
    let (before, after) = (index.before(time), index.after(time));
    let chosen = if !flags.contains(gst::SeekFlags::KEY_UNIT) || flags.contains(gst::SeekFlags::ACCURATE) {
        None
    } else if flags.contains(gst::SeekFlags::SNAP_NEAREST) {
        let distance = |t: Option<u64>| t.map_or(u64::MAX, |t| t.abs_diff(time));
        if distance(after) < distance(before) { after } else { before }
    } else if flags.contains(gst::SeekFlags::SNAP_AFTER) {
        after
    } else {
        before
    };
    chosen.and_then(|t| gst::ClockTime::try_from(t).ok()).unwrap_or(target)
}

fn segment_flags(flags: gst::SeekFlags) -> gst::SegmentFlags {
    // Flags that both kinds have share their values.
    let trick = [
        (gst::SeekFlags::TRICKMODE, gst::SegmentFlags::TRICKMODE),
        (gst::SeekFlags::TRICKMODE_KEY_UNITS, gst::SegmentFlags::TRICKMODE_KEY_UNITS),
        (gst::SeekFlags::TRICKMODE_NO_AUDIO, gst::SegmentFlags::TRICKMODE_NO_AUDIO),
        (gst::SeekFlags::SEGMENT, gst::SegmentFlags::SEGMENT),
    ];
    trick.into_iter().filter(|(of_seek, _)| flags.contains(*of_seek)).map(|(_, of_segment)| of_segment).collect()
}
