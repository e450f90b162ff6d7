// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many layers to fetch of the next media segment.

use elastictok::bitstream::MediaSegmentEntry;

/// Part of the measured throughput that layers may take.
const SHARE: f64 = 0.8;

/// Weight of the last measurement in the mean.
const NEWEST: f64 = 0.5;

/// What limits the number of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// Nothing.
    All,
    /// A bitrate in kbit/s.
    Kbps(u32),
    /// What the network gives, as measured.
    Auto,
}

/// Chooses by what was measured.
#[derive(Debug)]
pub struct Chooser {
    rate: Rate,
    max_layers: usize,
    /// Bits per second.
    mean: Option<f64>,
    last: f64,
}

impl Chooser {
    /// `max_layers`: 0 = all.
    pub fn new(rate: Rate, max_layers: usize) -> Self {
        Self { rate, max_layers: if max_layers == 0 { usize::MAX } else { max_layers }, mean: None, last: 0.0 }
    }

    /// Layers to ask for, 1 or more.
    pub fn layers(&self, entry: &MediaSegmentEntry) -> usize {
        let most = entry.layer_ends.len().min(self.max_layers);
        let limit = match self.rate {
            Rate::All => return most,
            Rate::Kbps(kbps) => f64::from(kbps) * 1e3,
            Rate::Auto => self.throughput().map_or(0.0, |bits| bits * SHARE),
        };
        let fits = |&layers: &usize| entry.bytes(layers) as f64 * 8e9 <= limit * entry.duration_ns as f64;
        (2..=most).rev().find(fits).unwrap_or(1)
    }

    /// Takes a measurement. The time includes that up to the first byte, which short media segments feel most.
    pub fn measured(&mut self, bytes: u64, seconds: f64) {
        self.last = bytes as f64 * 8.0 / seconds.max(1e-6);
        self.mean = Some(self.mean.map_or(self.last, |mean| mean + NEWEST * (self.last - mean)));
    }

    /// Bits per second to count on: it follows a fall at once, and a rise slowly.
    pub fn throughput(&self) -> Option<f64> {
        self.mean.map(|mean| mean.min(self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second of 100, 400 and 900 kbit/s.
    fn entry() -> MediaSegmentEntry {
        MediaSegmentEntry { uri: "0".into(), duration_ns: 1_000_000_000, layer_ends: vec![12_500, 50_000, 112_500] }
    }

    #[test]
    fn auto_starts_low_climbs_and_falls_at_once() {
        let mut chooser = Chooser::new(Rate::Auto, 0);
        assert_eq!(chooser.layers(&entry()), 1, "nothing is known yet");
        chooser.measured(12_500, 0.2);
        assert_eq!(chooser.layers(&entry()), 2, "500 kbit/s");
        chooser.measured(50_000, 0.2);
        assert_eq!(chooser.layers(&entry()), 3, "500, then 2000");
        chooser.measured(112_500, 4.5);
        assert_eq!(chooser.layers(&entry()), 1, "200 kbit/s");
    }

    #[test]
    fn limits_hold() {
        assert_eq!(Chooser::new(Rate::All, 0).layers(&entry()), 3);
        assert_eq!(Chooser::new(Rate::All, 2).layers(&entry()), 2);
        assert_eq!(Chooser::new(Rate::Kbps(400), 0).layers(&entry()), 2);
        assert_eq!(Chooser::new(Rate::Kbps(1), 0).layers(&entry()), 1);
        let mut chooser = Chooser::new(Rate::Auto, 1);
        chooser.measured(1 << 30, 0.0);
        assert_eq!(chooser.layers(&entry()), 1);
    }
}
