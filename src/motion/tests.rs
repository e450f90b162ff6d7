// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use crate::tokens::motion::{BLENDED, may_blend};

const W: usize = 160;
const H: usize = 96;

/// A smooth random texture, sampled anywhere.
fn texture(y: f32, x: f32) -> u8 {
    let wave = |fy: f32, fx: f32, p: f32| (y * fy + x * fx + p).sin();
    (128.0
        + 30.0 * wave(0.21, 0.13, 0.0)
        + 25.0 * wave(-0.11, 0.31, 1.0)
        + 20.0 * wave(0.37, -0.23, 2.0)
        + 15.0 * wave(0.05, 0.07, 3.0)) as u8
}

fn picture(dy: f32, dx: f32) -> Vec<u8> {
    (0..H * W).map(|i| texture((i / W) as f32 + dy, (i % W) as f32 + dx)).collect()
}

fn search(frames: &[&[u8]], reference: &[u8]) -> (Vec<i32>, MotionStats) {
    let mut motion = vec![0; 5 * (W / CELL) * (H / CELL)];
    let stats = MotionSearch::new(W, H, frames.len(), 1).expect("no thread").search(frames, reference, 4.0, &mut motion);
    (motion, stats)
}

#[test]
fn a_pan_is_found_to_the_quarter_pixel() {
    for (dy, dx) in [(0, 16), (8, -24), (3, 5), (-7, 2), (40, -80), (0, 1)] {
        let (qy, qx) = (dy as f32 / 4.0, dx as f32 / 4.0);
        let reference = picture(0.0, 0.0);
        let (first, last) = (picture(qy / 2.0, qx / 2.0), picture(qy, qx));
        let (motion, stats) = search(&[&first, &last], &reference);
        let n = motion.len() / 5;
        let right = (0..n).filter(|&i| (motion[i] - dy).abs() <= 1 && (motion[n + i] - dx).abs() <= 1).count();
        assert!(right * 10 >= n * 7, "{dy},{dx}: {right} of {n}, {:?}", &motion[..2 * n]);
        assert!(stats.intra < 0.2);
    }
}

#[test]
fn a_shake_bends() {
    let reference = picture(0.0, 0.0);
    // to (1.5, -2) and then back beyond the start
    let (first, last) = (picture(1.5, -2.0), picture(-1.0, 0.5));
    let (motion, stats) = search(&[&first, &last], &reference);
    let n = motion.len() / 5;
    // in quarters; in eighths, from the half of that
    let near = |i: usize, wanted: [i32; 4]| {
        [motion[i], motion[n + i], motion[3 * n + i], motion[4 * n + i]].iter().zip(wanted).all(|(a, b)| (a - b).abs() <= 2)
    };
    let right = (0..n).filter(|&i| near(i, [-4, 2, 12 + 4, -16 - 2])).count();
    assert!(right * 10 >= n * 7, "{right} of {n}, {motion:?}");
    assert!(stats.error < 1.0, "{stats:?}");
    let (motion, _) = search(&[&picture(0.5, 1.0), &picture(1.0, 2.0)], &reference);
    assert!(motion[3 * n..].iter().all(|b| *b == 0), "a straight pan does not bend: {motion:?}");
}

/// A page of small strokes without any larger shape, scrolled up by some rows.
fn page(rows: usize) -> Vec<u8> {
    let stroke = |y: usize, x: usize| (y / 2).wrapping_mul(7919).wrapping_add(x / 2).wrapping_mul(2654435761) >> 11 & 7 == 0;
    (0..H * W).map(|i| if stroke(i / W + rows, i % W) { 220 } else { 40 }).collect()
}

#[test]
fn a_scrolled_page_jumps() {
    for (first, last) in [(0, 28), (28, 28), (46, 46), (17, 28), (28, 0)] {
        let (motion, stats) = search(&[&page(first), &page(last)], &page(0));
        let n = motion.len() / 5;
        let wanted = [4 * last, 0, 8 * first, 0].map(|d| d as i32);
        let exact = |i: &usize| {
            [motion[*i], motion[n + i], motion[3 * n + i] + 4 * last as i32, motion[4 * n + i]] == wanted
                && motion[2 * n + i] == 0
        };
        // the last rows show what was not there before
        let known = (H - first.max(last)) / CELL * (W / CELL);
        let right = (0..known).filter(exact).count();
        assert!(right == known, "{first}, {last}: {right} of {known}, {stats:?}, {motion:?}");
    }
}

#[test]
fn cells_of_a_zoom_are_blended() {
    let zoomed =
        |factor: f32| -> Vec<u8> { (0..H * W).map(|i| texture((i / W) as f32 * factor, (i % W) as f32 * factor)).collect() };
    let (motion, _) = search(&[&zoomed(1.04), &zoomed(1.08)], &zoomed(1.0));
    let n = motion.len() / 5;
    let blended: Vec<usize> = (0..n).filter(|&cell| motion[2 * n + cell] == BLENDED).collect();
    assert!(blended.len() * 4 > n, "{} of {n}", blended.len());
    assert!(blended.iter().all(|&cell| may_blend(&motion, W / CELL, cell)));
    // where all cells move alike there is nothing to blend
    let (motion, _) = search(&[&picture(1.0, 2.0), &picture(2.0, 4.0)], &picture(0.0, 0.0));
    let blended = (0..n).filter(|&cell| motion[2 * n + cell] == BLENDED).count();
    assert!(blended * 8 < n, "{blended} of {n}");
}

#[test]
fn a_static_scene_does_not_move() {
    let reference = picture(0.0, 0.0);
    let noisy: Vec<u8> = reference.iter().enumerate().map(|(i, &p)| p.wrapping_add(((i * 2654435761) >> 7 & 1) as u8)).collect();
    let (motion, stats) = search(&[&noisy, &noisy], &reference);
    assert!(motion.iter().all(|&m| m == 0), "{motion:?}");
    assert!(stats.error <= 1.0);
}

#[test]
fn a_new_scene_is_intra() {
    let reference: Vec<u8> = (0..H * W).map(|i| ((i * 2654435761) >> 13) as u8).collect();
    let flat = vec![200u8; H * W];
    let (motion, stats) = search(&[&flat, &flat], &reference);
    assert!(stats.intra > 0.9, "{stats:?}");
    assert!(motion[motion.len() / 5 * 2..motion.len() / 5 * 3].iter().filter(|&&m| m == 1).count() > 50);
}

#[test]
fn one_cell_and_any_block_length() {
    for t in 1..=4 {
        let plane = vec![7u8; 256];
        let frames = vec![plane.as_slice(); t];
        let mut motion = vec![9; 5];
        MotionSearch::new(16, 16, t, 2).expect("a thread").search(&frames, &plane, 4.0, &mut motion);
        assert_eq!(motion, [0; 5]);
    }
}

#[test]
fn a_second_thread_changes_nothing() {
    let noise = |seed: usize| move |i: usize| (i.wrapping_mul(2654435761).wrapping_add(seed * 97) >> 9 & 7) as u8;
    let mut searches = [1, 2].map(|threads| MotionSearch::new(W, H, 2, threads).expect("threads"));
    for block in 0..4 {
        let n = block as f32;
        let [reference, first, last] = [0.0, 0.6, 1.2].map(|t| {
            let mut p = picture(1.3 * (n + t), -2.2 * (n + t * t));
            p.iter_mut().enumerate().for_each(|(i, v)| *v = v.saturating_add(noise(block)(i)));
            p
        });
        let [one, two] = searches.each_mut().map(|s| {
            let mut motion = vec![0; 5 * (W / CELL) * (H / CELL)];
            let stats = s.search(&[&first, &last], &reference, 4.0, &mut motion);
            (motion, stats)
        });
        assert_eq!(one, two);
        assert!(one.0.iter().any(|&m| m != 0));
    }
}
