// SPDX-License-Identifier: MIT OR Apache-2.0
//! Thinning a stream to a bitrate: how many layers of each block pass.

use super::block_header::RawHeader;
use super::limits::MAX_LAYERS;
use super::thin;
use crate::Result;

/// Time over which the bitrate holds, in seconds: what the bucket holds at the most, and how far back means reach.
const WINDOW: f64 = 1.0;

/// Cuts the blocks of one stream to a bitrate, a count of layers, or both. Knows no model: a block says where its layers end.
///
/// Layers are given up at any block, since a bitrate cannot wait, but taken back only at key blocks: a receiver's picture
/// differs from that of a receiver of more layers until then, and upper layers refine the other one.
#[derive(Debug, Clone, Default)]
pub struct Thinner {
    max_layers: usize,
    bitrate: f64,
    /// Layers that pass until the next key block.
    layers: usize,
    /// Bits passed beyond the bitrate.
    owed: f64,
    /// Bits per second of the first layer, the first two, ..; recent mean.
    means: Vec<f64>,
    sizes: Vec<usize>,
}

impl Thinner {
    /// Limits from the next block on: `max_layers` layers, `bitrate` bits per second; 0 = no limit.
    pub fn set_limits(&mut self, max_layers: usize, bitrate: f64) {
        if bitrate != self.bitrate {
            self.owed = 0.0;
        }
        (self.max_layers, self.bitrate) = (max_layers, bitrate);
    }

    /// Layers that pass now, of those that the stream has shown so far.
    pub fn layers(&self) -> usize {
        self.layers.min(self.means.len())
    }

    /// The part of `block` that passes, a prefix of it; `seconds`: how long its frames last. At least the first layer passes,
    /// whatever the bitrate. [`Malformed`](crate::Error::Malformed): the block's header or first segment is broken.
    pub fn cut<'a>(&mut self, block: &'a [u8], seconds: f64) -> Result<&'a [u8]> {
        let key = RawHeader::read(block)?.key();
        let seconds = seconds.max(1e-3);
        self.measure(block, seconds)?;
        let most = if self.max_layers == 0 { MAX_LAYERS } else { self.max_layers };
        let fits = |n: &usize| self.bitrate == 0.0 || self.means[*n - 1] <= self.bitrate;
        if key || self.layers == 0 {
            // a block of fewer layers than the stream has must not hold back those that follow
            let n = (1..=self.means.len()).rev().find(fits).unwrap_or(1);
            self.layers = if n == self.means.len() { MAX_LAYERS } else { n };
        }
        self.layers = self.layers.min(most);
        if self.bitrate > 0.0 {
            let share = self.bitrate * seconds;
            while self.layers > 1 && self.owed + self.bits(self.layers) - share > self.bitrate * WINDOW {
                self.layers = self.layers.min(self.sizes.len()) - 1;
            }
            self.layers = self.layers.max(1);
            self.owed = (self.owed + self.bits(self.layers) - share).max(0.0);
        }
        thin(block, self.layers)
    }

    fn bits(&self, layers: usize) -> f64 {
        self.sizes[layers.min(self.sizes.len()) - 1] as f64 * 8.0
    }

    /// Sizes of the block cut to every count of layers, and their means.
    fn measure(&mut self, block: &[u8], seconds: f64) -> Result<()> {
        self.sizes.clear();
        let whole = thin(block, MAX_LAYERS)?.len();
        for layers in 1..=MAX_LAYERS {
            self.sizes.push(thin(block, layers)?.len());
            if self.sizes[layers - 1] == whole {
                break;
            }
        }
        while self.means.len() < self.sizes.len() {
            self.means.push(self.means.last().copied().unwrap_or(0.0));
        }
        let weight = (seconds / WINDOW).min(1.0);
        for i in 0..self.means.len() {
            let rate = self.bits(i + 1) / seconds;
            self.means[i] += weight * (rate - self.means[i]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::bitstream::{BlockHeader, BlockWriter};
    use crate::timing::Timing;

    /// Three layers of 1, 2 and 4 units of 100 bytes.
    fn block(position: u32) -> BytesMut {
        let key = position == 0;
        let timing = Timing { base: key.then_some(0), ..Timing::default() };
        let header = BlockHeader { key, epoch: 0, position, left_out: 0, frames: 2, quantiser: 9, timing };
        let mut out = BytesMut::new();
        let mut writer = BlockWriter::begin(&header, 2, &mut out).expect("valid");
        for layer in 0..3 {
            writer.segment(&vec![7; 100 << layer]);
        }
        out
    }

    /// Bytes per second that pass of the last 60 of `n` blocks of 0.1 s, a key block each 20.
    fn rate(thinner: &mut Thinner, n: u32) -> f64 {
        let passed: Vec<usize> = (0..n).map(|i| thinner.cut(&block(i % 20), 0.1).expect("whole").len()).collect();
        passed[n as usize - 60..].iter().sum::<usize>() as f64 / 6.0
    }

    #[test]
    fn the_bitrate_holds_with_as_many_layers_as_fit() {
        let mut thinner = Thinner::default();
        assert!(rate(&mut thinner, 60) > 7000.0, "no limit");
        for (limit, least) in [(7500.0, 7000.0), (6000.0, 3000.0), (3500.0, 3000.0), (2000.0, 1000.0)] {
            thinner.set_limits(0, limit * 8.0);
            let passes = rate(&mut thinner, 200);
            assert!((least..=limit).contains(&passes), "{passes} bytes/s for {limit}");
        }
        thinner.set_limits(0, 80.0);
        let least = rate(&mut thinner, 200);
        assert!((1000.0..1200.0).contains(&least), "the first layer always passes: {least}");
    }

    #[test]
    fn layers_go_at_once_and_come_back_at_key_blocks() {
        let mut thinner = Thinner::default();
        let size = |thinner: &mut Thinner, position| thinner.cut(&block(position), 0.1).expect("whole").len();
        let whole = size(&mut thinner, 0);
        thinner.set_limits(1, 0.0);
        let first = size(&mut thinner, 1);
        assert!(first < 130 && whole > 700);
        thinner.set_limits(0, 0.0);
        assert_eq!(size(&mut thinner, 2), first, "not before the key block");
        assert_eq!(size(&mut thinner, 0), whole);
        assert!(thinner.cut(&[1, 2, 3], 0.1).is_err());
    }
}
