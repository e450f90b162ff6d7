// SPDX-License-Identifier: MIT OR Apache-2.0
//! A stream's figures over time, in as many points as a plot can show.

use crate::page::chart::Edges;
use crate::scan::Stream;

/// Points of a line at the most.
const MOST: usize = 300;
/// Steps of the bits' plot at the most.
const STEPS: f64 = 120.0;

/// When blocks and frames are shown, in seconds from the stream's start.
pub struct Times {
    /// When each block begins.
    pub starts: Vec<f64>,
    /// How long the stream lasts.
    pub longest: f64,
    /// The stream's own start, where its times are what the others are made of.
    own: Option<f64>,
    frames: Vec<u32>,
}

impl Times {
    /// By the stream's times, or, where it has none, at 30 frames a second.
    pub fn new(stream: &Stream) -> Self {
        let frames = stream.blocks.iter().map(|b| b.frames).collect();
        let (first, longest) = (stream.start(), stream.duration());
        if longest > 0.0 && stream.blocks.iter().all(|b| b.start.is_some()) {
            let starts = stream.blocks.iter().map(|b| b.start.unwrap_or(first) - first).collect();
            return Self { starts, longest, own: Some(first), frames };
        }
        let mut at = 0.0;
        let starts = stream.blocks.iter().map(|b| {
            let start = at;
            at += if b.duration > 0.0 { b.duration } else { f64::from(b.frames) / 30.0 };
            start
        });
        let starts = starts.collect();
        Self { starts, longest: at, own: None, frames }
    }

    /// When frame `index` of a block is shown; `time`: by the stream's own time, if it has one.
    pub fn frame(&self, block: usize, index: usize, time: Option<f64>) -> f64 {
        if let (Some(time), Some(first)) = (time, self.own) {
            return (time - first).max(0.0);
        }
        let start = |block| self.starts.get(block).copied().unwrap_or(self.longest);
        let frames = self.frames.get(block).copied().unwrap_or(1).max(1);
        start(block) + (start(block + 1) - start(block)) * index as f64 / f64::from(frames)
    }
}

/// Time, mean, least and most of neighbouring points, thinned to what a plot can show.
pub fn condense(points: &[(f64, f64)]) -> Vec<(f64, f64, f64, f64)> {
    let group = points.len().div_ceil(MOST).max(1);
    let condensed = points.chunks(group).map(|g| {
        let n = g.len() as f64;
        let fold = |start: f64, f: fn(f64, f64) -> f64| g.iter().map(|p| p.1).fold(start, f);
        (
            g.iter().map(|p| p.0).sum::<f64>() / n,
            g.iter().map(|p| p.1).sum::<f64>() / n,
            fold(f64::INFINITY, f64::min),
            fold(f64::NEG_INFINITY, f64::max),
        )
    });
    condensed.collect()
}

/// Means over a window of `seconds` around each point.
pub fn smooth(points: &[(f64, f64)], seconds: f64) -> Vec<(f64, f64)> {
    let (mut from, mut to, mut sum) = (0, 0, 0.0);
    let smooth = points.iter().map(|&(x, _)| {
        while to < points.len() && points[to].0 <= x + seconds / 2.0 {
            sum += points[to].1;
            to += 1;
        }
        while points[from].0 < x - seconds / 2.0 {
            sum -= points[from].1;
            from += 1;
        }
        (x, sum / (to - from) as f64)
    });
    smooth.collect()
}

/// kbit/s of each layer over time, stacked: for each layer x, lower and upper edge, in steps. And the steps' length in seconds.
pub fn stacked(stream: &Stream, times: &Times) -> (Vec<Edges>, f64) {
    let (starts, longest) = (&times.starts, times.longest);
    let layers = stream.layers();
    let block = if starts.is_empty() { 1.0 } else { longest / starts.len() as f64 };
    let nice = [0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 3600.0];
    // one step holds some blocks, or they would look uneven for no reason
    let wanted = (longest / STEPS).max(block * 4.0);
    let step = if longest <= block * 24.0 { block } else { nice.into_iter().find(|s| *s >= wanted).unwrap_or(wanted) };
    let steps = ((longest / step).ceil() as usize).max(1);
    let mut bits = vec![vec![0.0; steps]; layers];
    for (start, b) in starts.iter().zip(&stream.blocks) {
        let at = ((start / step + 1e-6) as usize).min(steps - 1);
        for (layer, bytes) in bits.iter_mut().zip(&b.layers) {
            layer[at] += *bytes as f64 * 8e-3;
        }
    }
    let mut below = vec![0.0; steps];
    let stacked = bits.into_iter().map(|layer| {
        let mut edges = Vec::with_capacity(steps * 2);
        for (i, (kbit, base)) in layer.into_iter().zip(&mut below).enumerate() {
            let (from, to) = (i as f64 * step, ((i + 1) as f64 * step).min(longest));
            let upper = *base + kbit / (to - from).max(1e-3);
            edges.extend([(from, *base, upper), (to, *base, upper)]);
            *base = upper;
        }
        edges
    });
    (stacked.collect(), step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condensing_keeps_means_and_extremes() {
        let points: Vec<(f64, f64)> = (0..3000).map(|i| (f64::from(i), if i == 1234 { 100.0 } else { 1.0 })).collect();
        let few = condense(&points);
        assert!(few.len() <= MOST);
        assert_eq!(few.iter().map(|p| p.3).fold(0.0, f64::max), 100.0);
        let mean = few.iter().map(|p| p.1).sum::<f64>() / few.len() as f64;
        assert!((mean - 1.033).abs() < 1e-9, "{mean}");
        assert_eq!(condense(&points[..2]), [(0.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0)]);
        assert!(condense(&[]).is_empty());
    }

    #[test]
    fn smoothing_means_a_window() {
        let points: Vec<(f64, f64)> = (0..10).map(|i| (f64::from(i), if i % 2 == 0 { 0.0 } else { 10.0 })).collect();
        let even = smooth(&points, 3.0);
        assert_eq!(even.len(), 10);
        assert!((even[4].1 - 20.0 / 3.0).abs() < 1e-9, "{:?}", even[4]);
        assert_eq!(smooth(&points, 0.0), points);
        assert!(smooth(&[], 1.0).is_empty());
    }
}
