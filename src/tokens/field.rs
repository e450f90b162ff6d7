// SPDX-License-Identifier: MIT OR Apache-2.0
//! What encoder and decoder both know of a block's cells while they code it: digits so far, counts, and how much is to be
//! expected of every coefficient.

use super::contexts::{COARSE, ENERGIES, OUTER};
use super::{MAX_LEVELS, NestedLayout};

/// Significant coefficients speak with at most this voice.
const LOUDEST: i32 = 4;

/// Classes of the energy within the cell (low byte) and of the neighbour cells (high byte).
static INNER_CLASS: [u8; 256] = classes([1, 2, 3, 5, 7, 10, 16], 0);
static OUTER_CLASS: [u8; 256] = classes([1, 2, 4, 255, 255, 255, 255], 1);

const fn classes(limits: [usize; 7], ignore_last: usize) -> [u8; 256] {
    let mut out = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut k = 0;
        while k < 7 {
            if i >= limits[k] && !(ignore_last == 1 && k > 2) {
                out[i] += 1;
            }
            k += 1;
        }
        i += 1;
    }
    out
}

/// State of all cells. Cells lie in a grid with a border of one on every side; `place` is an index into that grid.
#[derive(Debug, Clone)]
pub(super) struct Field {
    coefficients: usize,
    pitch: usize,
    /// Signed magnitudes at the current level; before a coefficient is coded, the middle digit is assumed.
    pub values: Vec<i16>,
    /// Low byte: what significant neighbours in the cell say; high byte: the same coefficient in the cells around.
    energy: Vec<u16>,
    touched: Vec<bool>,
    /// Tokens of each level.
    pub counts: [Vec<u16>; MAX_LEVELS],
    /// 1 + last significant coefficient.
    pub extents: Vec<u16>,
}

impl Field {
    pub fn new(layout: &NestedLayout) -> Self {
        let pitch = layout.cells_x + 2;
        let places = pitch * (layout.cells_y + 2);
        Self {
            coefficients: layout.coefficients,
            pitch,
            values: vec![0; places * layout.coefficients],
            energy: vec![0; places * layout.coefficients],
            touched: vec![false; places],
            counts: std::array::from_fn(|level| vec![0; if level < layout.levels { places } else { 0 }]),
            extents: vec![0; places],
        }
    }

    #[inline]
    pub fn place(&self, x: usize, y: usize) -> usize {
        (y + 1) * self.pitch + x + 1
    }

    #[inline]
    pub fn pitch(&self) -> usize {
        self.pitch
    }

    /// Forgets the block; touches only what was used.
    pub fn clear(&mut self) {
        let c = self.coefficients;
        for (place, touched) in self.touched.iter_mut().enumerate() {
            if std::mem::take(touched) {
                self.energy[place * c..(place + 1) * c].fill(0);
            }
            let extent = usize::from(std::mem::take(&mut self.extents[place]));
            self.values[place * c..place * c + extent].fill(0);
        }
        for counts in &mut self.counts {
            counts.fill(0);
        }
    }

    /// Notes that `place` will have significant coefficients.
    #[inline]
    pub fn touch(&mut self, place: usize) {
        for p in [place, place - 1, place + 1, place - self.pitch, place + self.pitch] {
            self.touched[p] = true;
        }
    }

    #[inline]
    pub fn value(&self, place: usize, i: usize) -> i32 {
        i32::from(self.values[place * self.coefficients + i])
    }

    /// Sets a value already significant.
    #[inline]
    pub fn set(&mut self, place: usize, i: usize, value: i32) {
        self.values[place * self.coefficients + i] = value as i16;
    }

    /// Makes a coefficient significant.
    #[inline]
    pub fn raise(&mut self, layout: &NestedLayout, place: usize, i: usize, value: i32) {
        self.set(place, i, value);
        self.extents[place] = self.extents[place].max(i as u16 + 1);
        let voice = value.abs().min(LOUDEST) as u16;
        self.speak_inside(layout, place, i, voice);
        self.speak_outside(place, i, voice);
    }

    /// Adds `voice` (two's complement where it falls) to what neighbours in the cell expect.
    #[inline]
    pub fn speak_inside(&mut self, layout: &NestedLayout, place: usize, i: usize, voice: u16) {
        let energy = &mut self.energy[place * self.coefficients..(place + 1) * self.coefficients];
        for &(j, weight) in layout.links(i) {
            let e = &mut energy[usize::from(j)];
            *e = e.wrapping_add(weight.wrapping_mul(voice));
        }
    }

    /// Adds `voice` to what the cells around expect of coefficient `i`.
    #[inline]
    pub fn speak_outside(&mut self, place: usize, i: usize, voice: u16) {
        for p in [place - 1, place + 1, place - self.pitch, place + self.pitch] {
            let e = &mut self.energy[p * self.coefficients + i];
            *e = e.wrapping_add(voice << 8);
        }
    }

    /// Goes to the next level: every significant coefficient gets the middle digit.
    pub fn promote(&mut self, layout: &NestedLayout) {
        let c = self.coefficients;
        for y in 0..layout.cells_y {
            for x in 0..layout.cells_x {
                let place = self.place(x, y);
                for i in 0..usize::from(self.extents[place]) {
                    let old = i32::from(self.values[place * c + i]);
                    if old != 0 {
                        let new = (3 * old.abs() + 1).min(i32::from(i16::MAX)) * old.signum();
                        self.set(place, i, new);
                        let louder = (LOUDEST - old.abs().min(LOUDEST)) as u16;
                        if louder > 0 {
                            self.speak_inside(layout, place, i, louder);
                            self.speak_outside(place, i, louder);
                        }
                    }
                }
            }
        }
    }

    /// (energy class in the cell, class of the cells around) of a coefficient.
    #[inline]
    pub fn classes(&self, place: usize, i: usize) -> (usize, usize) {
        let e = self.energy[place * self.coefficients + i];
        let (inner, outer) = (INNER_CLASS[usize::from(e & 255)], OUTER_CLASS[usize::from(e >> 8)]);
        (usize::from(inner), usize::from(outer))
    }

    /// Class of both energies together, for rarer symbols.
    #[inline]
    pub fn coarse_class(&self, place: usize, i: usize) -> usize {
        let (inner, outer) = self.classes(place, i);
        ((inner + outer).div_ceil(2)).min(COARSE - 1)
    }
}

const _: () = assert!(ENERGIES == 8 && OUTER == 4);
