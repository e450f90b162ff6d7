// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the motion search does on a clip: `motion_report CLIP.yuv WIDTH HEIGHT [LAMBDA] [T] [RUNS] [BLOCKS]`, raw 4:2:0 video.
//!
//! Every block of T frames is searched against the original frame before it. Prints the mean absolute difference per luma
//! sample without and with motion, what a full search of BLOCKS of the blocks without regard to rate leaves (whole pixels, +-16), bits per
//! cell, and the least time of RUNS passes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use elastictok::internals::motion::{CELL, MotionSearch, MotionStats};

fn luma_planes(path: &str, width: usize, height: usize) -> Result<Vec<Vec<u8>>> {
    let (w, h) = (width.next_multiple_of(CELL), height.next_multiple_of(CELL));
    let frame = width * height + 2 * width.div_ceil(2) * height.div_ceil(2);
    let data = std::fs::read(path).with_context(|| format!("reading {path}"))?;
    ensure!(data.len() >= 2 * frame, "{path} holds less than two frames of {width}x{height}");
    Ok(data
        .chunks_exact(frame)
        .map(|f| (0..w * h).map(|i| f[(i / w).min(height - 1) * width + (i % w).min(width - 1)]).collect())
        .collect())
}

fn difference(a: &[u8], b: &[u8]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
}

/// Mean absolute difference that the best whole-pixel vector of every cell leaves.
fn exhaustive(frames: &[&[u8]], reference: &[u8], w: usize) -> f64 {
    let (h, t) = (reference.len() / w, frames.len() as i32);
    let sample = |y: i32, x: i32| reference[y.clamp(0, h as i32 - 1) as usize * w + x.clamp(0, w as i32 - 1) as usize];
    let mut total = 0u64;
    for y in (0..h).step_by(CELL) {
        for x in (0..w).step_by(CELL) {
            let cost = |dy: i32, dx: i32| -> u64 {
                let mut sum = 0;
                for (i, frame) in frames.iter().enumerate() {
                    let part = |d: i32| (2 * d * (i as i32 + 1) + t).div_euclid(2 * t);
                    let (py, px) = (part(dy), part(dx));
                    for r in y..y + CELL {
                        for c in x..x + CELL {
                            sum += u64::from(frame[r * w + c].abs_diff(sample(r as i32 + py, c as i32 + px)));
                        }
                    }
                }
                sum
            };
            total += (-16..=16).flat_map(|dy| (-16..=16).map(move |dx| (dy, dx))).map(|(dy, dx)| cost(dy, dx)).min().unwrap_or(0);
        }
    }
    total as f64 / (reference.len() * frames.len()) as f64
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    ensure!(args.len() >= 4, "usage: motion_report CLIP.yuv WIDTH HEIGHT [LAMBDA = 10] [T = 2] [RUNS = 3] [BLOCKS = 4]");
    let (width, height) = (args[2].parse()?, args[3].parse()?);
    let lambda: f32 = args.get(4).map_or(Ok(10.0), |a| a.parse())?;
    let t: usize = args.get(5).map_or(Ok(2), |a| a.parse())?;
    let runs: usize = args.get(6).map_or(Ok(3), |a| a.parse())?;
    let exhaustively: usize = args.get(7).map_or(Ok(4), |a| a.parse())?;
    let planes = luma_planes(&args[1], width, height)?;
    let (w, h) = (width.next_multiple_of(CELL), height.next_multiple_of(CELL));
    let cells = (w / CELL) * (h / CELL);
    let mut motion = vec![0; 5 * cells];
    let blocks = (planes.len() - 1) / t;
    let mut times = vec![Duration::MAX; blocks];
    let (mut still, mut sum, mut full) = (0.0, MotionStats::default(), 0.0);
    let mut searched = 0;
    let mut at_those = 0.0;
    for run in 0..runs.max(1) {
        let mut search = MotionSearch::new(w, h, t, 1)?;
        for (b, time) in times.iter_mut().enumerate() {
            let reference = &planes[b * t];
            let frames: Vec<&[u8]> = planes[b * t + 1..][..t].iter().map(Vec::as_slice).collect();
            let started = Instant::now();
            let stats = search.search(&frames, reference, lambda, &mut motion);
            *time = (*time).min(started.elapsed());
            if run > 0 {
                continue;
            }
            still += frames.iter().map(|f| difference(f, reference)).sum::<f64>() / t as f64;
            sum.error += stats.error;
            sum.intra += stats.intra;
            sum.bits += stats.bits;
            if b * exhaustively % blocks < exhaustively {
                full += exhaustive(&frames, reference, w);
                at_those += f64::from(stats.error);
                searched += 1;
            }
        }
    }
    let n = blocks as f32;
    let mean = times.iter().sum::<Duration>().as_secs_f64() * 1e3 / f64::from(n);
    let most = times.iter().max().map_or(0.0, |t| t.as_secs_f64() * 1e3);
    println!(
        "{}: {blocks} blocks, difference {:.3} without and {:.3} with motion; {} blocks searched exhaustively {:.3}, these {:.3}; {:.2} bit/cell, {:.1} % intra; {mean:.2} ms/block, {most:.2} at most",
        args[1],
        still / f64::from(n),
        sum.error / n,
        searched,
        full / f64::from(searched),
        at_those / f64::from(searched),
        sum.bits / n / cells as f32,
        100.0 * sum.intra / n
    );
    Ok(())
}
