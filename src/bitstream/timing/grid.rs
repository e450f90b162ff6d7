// SPDX-License-Identifier: MIT OR Apache-2.0
//! Predicted times: the grid that a key block's time and the framerate fix.

use super::times::{BlockTimes, Durations, Explicit, FRAMES, FrameTime, TimeUnit};

pub(super) const SECOND: u128 = 1_000_000_000;

/// What a key block fixes for the blocks that depend on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Anchor {
    pub base: u64,
    /// Index of the grid point next to `base`.
    pub point: u128,
    pub unit: TimeUnit,
    pub durations: Durations,
}

impl Anchor {
    pub fn new((numerator, denominator): (u32, u32), base: u64) -> Self {
        // At most 2^64 * 2^32: the sums below stay within 2^97.
        let (scaled, step) = (u128::from(base) * u128::from(numerator), SECOND * u128::from(denominator));
        Self { base, point: (scaled + step / 2) / step, unit: TimeUnit::default(), durations: Durations::default() }
    }

    pub fn with_defaults(self, explicit: Option<Explicit>) -> Self {
        let Some(Explicit { unit, durations, .. }) = explicit else {
            return self;
        };
        let durations = match durations {
            Durations::Next(_) | Durations::Each(_) => Durations::default(),
            simple => simple,
        };
        Self { unit, durations, ..self }
    }
}

/// The predictions for one block.
pub(super) struct Grid {
    pub framerate: (u32, u32),
    pub anchor: Anchor,
    /// Index of the block's first frame since the key block, below 2^36.
    pub first: u64,
}

impl Grid {
    /// Time of grid point `index` after the anchor's; only for a fixed framerate.
    pub fn point(&self, index: u128) -> i128 {
        // (2^97 + 2^36 * 2^62) fits with room to spare.
        let step = SECOND * u128::from(self.framerate.1);
        ((self.anchor.point + index) * step / u128::from(self.framerate.0)).cast_signed()
    }

    /// Predicted PTS of a frame of the block, never negative; may be beyond the range of times.
    pub fn predict(&self, index: usize) -> i128 {
        let base = i128::from(self.anchor.base);
        if self.framerate.0 == 0 {
            return base;
        }
        base + self.point(u128::from(self.first) + index as u128) - self.point(0)
    }

    /// The prediction in units. Grid point and offset are rounded separately, so that a key block whose own time was rounded
    /// does not change the rounding of the frames after it. May be beyond the range of times.
    pub fn in_units(&self, index: usize, unit: TimeUnit) -> i128 {
        let unit = i128::from(unit.nanoseconds());
        let round = |time: i128| (time + unit / 2).div_euclid(unit);
        let base = i128::from(self.anchor.base);
        if self.framerate.0 == 0 {
            return round(base);
        }
        round(self.point(u128::from(self.first) + index as u128)) + round(base - self.point(0))
    }

    /// The same modulo 2^64, which differences are taken in.
    pub fn in_units_wrapped(&self, index: usize, unit: TimeUnit) -> u64 {
        self.in_units(index, unit) as u64
    }

    /// The PTS that a frame without differences gets.
    pub fn rounded(&self, index: usize, unit: TimeUnit) -> Option<u64> {
        in_range(self.in_units(index, unit) * i128::from(unit.nanoseconds()))
    }

    pub fn nominal(&self) -> u64 {
        let (numerator, denominator) = self.framerate;
        // At most 2^32 * 10^9, below 2^62.
        (u64::from(denominator) * SECOND as u64).checked_div(numerator.into()).unwrap_or(0)
    }

    pub fn differences(&self, frames: &[FrameTime], unit: TimeUnit) -> [i64; FRAMES] {
        let mut differences = [0; FRAMES];
        let mut before = 0u64;
        for (index, time) in frames.iter().enumerate() {
            let units = time.pts.map_or(u64::MAX, |pts| pts / unit.nanoseconds());
            let error = units.wrapping_sub(self.in_units_wrapped(index, unit));
            differences[index] = error.wrapping_sub(before).cast_signed();
            before = error;
        }
        differences
    }

    pub fn times(&self, frames: usize, no_pts: bool, explicit: &Explicit) -> BlockTimes {
        let mut out = BlockTimes { frames, ..Default::default() };
        let Explicit { unit, differences, durations } = explicit;
        let (mut error, mut coded) = (0u64, self.nominal());
        for index in 0..frames {
            out.times[index].pts = match differences {
                _ if no_pts => None,
                None => self.rounded(index, *unit),
                Some(differences) => {
                    error = error.wrapping_add(differences[index].cast_unsigned());
                    let units = self.in_units_wrapped(index, *unit).wrapping_add(error);
                    valid(units.checked_mul(unit.nanoseconds()))
                }
            };
        }
        let fixed = self.framerate.0 > 0;
        for index in 0..frames {
            out.times[index].duration = match durations {
                Durations::Grid if fixed => in_range(
                    self.point(u128::from(self.first) + index as u128 + 1) - self.point(u128::from(self.first) + index as u128),
                ),
                Durations::Nominal if fixed => Some(self.nominal()),
                Durations::Grid | Durations::Nominal | Durations::Absent => None,
                Durations::Next(_) if index + 1 < frames => {
                    let pts = (out.times[index].pts, out.times[index + 1].pts);
                    if let (Some(this), Some(next)) = pts { next.checked_sub(this) } else { None }
                }
                Durations::Next(last) => valid(Some(self.nominal().wrapping_add(last.cast_unsigned()))),
                Durations::Each(differences) => {
                    coded = coded.wrapping_add(differences[index].cast_unsigned());
                    valid(Some(coded))
                }
            };
        }
        out
    }
}

/// A time as GStreamer writes it, where 2^64 - 1 is none.
pub(super) fn valid(time: Option<u64>) -> Option<u64> {
    time.filter(|&time| time != u64::MAX)
}

/// A time where it is one.
pub(super) fn in_range(time: i128) -> Option<u64> {
    valid(u64::try_from(time).ok())
}
