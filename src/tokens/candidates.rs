// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the encoder decides on: the coefficients of every cell that may get tokens, in every transform size that may be best. None of it
//! depends on what was decided before, so some cells are decided on while others are examined.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::choose_size::{DOUBT, FEW, estimate, luma};
use super::layer::Layer;
use super::quantise::{Candidate, Decider};
use super::step::Part;
use super::transform::{LumaGrid, Plane};
use super::{NestedLayout, TransformSize};
use crate::entropy::COST_ONE_BIT;
use crate::pair::Pair;

/// A cell's latents in one transform size.
#[derive(Debug, Clone, Copy)]
pub(super) struct SizedLatents<'a> {
    /// Of 16x16 in the graph's order.
    whole: &'a [i16],
    /// Luma of a smaller size.
    small: Option<(&'a LumaGrid, &'a [i16])>,
}

impl SizedLatents<'_> {
    /// The latent of coefficient `i` in token order.
    pub fn get(&self, layout: &NestedLayout, i: usize) -> i16 {
        let small = self.small.and_then(|(grid, latents)| grid.latent(latents, i));
        small.unwrap_or_else(|| self.whole[usize::from(layout.slots[i])])
    }
}

/// What the layers before say of a cell.
pub(super) trait Before: Sync {
    /// The cell's transform size, if it has one.
    fn size(&self, cell: usize) -> Option<TransformSize>;

    /// Adds coefficients that are not zero to the cell's candidates, which are in token order from `first` on; returns whether there were
    /// any.
    fn add_shown(&self, cell: usize, latents: SizedLatents<'_>, candidates: &mut Vec<Candidate>, first: usize) -> bool;
}

/// Parts that the cells of a picture are examined in.
const PARTS: usize = 16;

/// Candidates of all cells.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    parts: Vec<Mutex<Found>>,
    /// Of the thread that decides, and of the other.
    finders: [Finder; 2],
}

/// Candidates of a cell in the sizes of `TransformSize`, where they are worth a trial.
type Sizes = [Option<Range<usize>>; 3];

/// Puts candidates into token order. There are so many that comparing them takes longer.
#[derive(Debug, Default)]
pub(super) struct Sorter {
    /// Which coefficients there are, one bit each, and the candidates in their places.
    there: Vec<u64>,
    places: Vec<Candidate>,
}

impl Sorter {
    /// Sorts some candidates of the `coefficients` of a cell, at most one of each.
    pub fn sort(&mut self, coefficients: usize, candidates: &mut [Candidate]) {
        self.there.resize(coefficients.div_ceil(64), 0);
        self.places.resize(coefficients, Candidate { i: 0, x: 0, above: 0, k: 0 });
        for one in &*candidates {
            let i = usize::from(one.i);
            self.there[i / 64] |= 1 << (i % 64);
            self.places[i] = *one;
        }
        let mut sorted = candidates.iter_mut();
        for (places, there) in self.places.chunks(64).zip(&mut self.there) {
            let mut left = std::mem::take(there);
            while left != 0 {
                if let Some(to) = sorted.next() {
                    *to = places[left.trailing_zeros() as usize];
                }
                left &= left - 1;
            }
        }
    }
}

/// What was found in some cells that follow each other.
#[derive(Debug, Default)]
struct Found {
    /// `false`: nothing yet.
    done: bool,
    candidates: Vec<Candidate>,
    cells: Vec<Sizes>,
    /// Energies.
    luma: f64,
    chroma: f64,
}

impl Found {
    /// Of one cell: each size that is worth a trial, with its candidates in token order.
    fn of<'a>(&'a self, sizes: &'a Sizes) -> impl Iterator<Item = (TransformSize, &'a [Candidate])> {
        let sizes = TransformSize::ALL.into_iter().zip(sizes);
        sizes.filter_map(|(size, own)| Some((size, &self.candidates[own.clone()?])))
    }
}

/// Working memory of a thread.
#[derive(Debug, Default)]
struct Finder {
    sorter: Sorter,
    /// Luma of a cell: of 16x16, and of another size.
    planes: Vec<Plane>,
    small: Vec<i16>,
    /// The same of the next layer.
    planes_above: Vec<Plane>,
    small_above: Vec<i16>,
}

fn lock<T>(one: &Mutex<T>) -> MutexGuard<'_, T> {
    one.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock_if_free<T>(one: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match one.try_lock() {
        Ok(one) => Some(one),
        Err(TryLockError::Poisoned(one)) => Some(one.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Candidates {
    /// Examines the latents of all cells, and lets `decide` see what was found in each, in order: the sizes that are worth a trial, with their
    /// candidates in token order. If there is a second thread, it examines cells that are not decided on yet. Returns the energies of luma
    /// and chroma, which are whole numbers: no order of sums changes them.
    pub fn each(
        &mut self,
        decider: &Decider<'_>,
        latents: &[i16],
        before: &impl Before,
        pair: &Pair,
        mut decide: impl FnMut(usize, &mut dyn Iterator<Item = (TransformSize, &[Candidate])>),
    ) -> [f64; 2] {
        let layout = decider.layer.layout;
        let size = layout.cells().div_ceil(PARTS).max(1);
        self.parts.resize_with(layout.cells().div_ceil(size), Mutex::default);
        self.parts.iter_mut().for_each(|part| part.get_mut().unwrap_or_else(PoisonError::into_inner).done = false);
        let (parts, [own, other]) = (&self.parts, &mut self.finders);
        let find = |n: usize, found: &mut Found, finder: &mut Finder| {
            if !std::mem::replace(&mut found.done, true) {
                let latents = &latents[n * size * layout.coefficients..];
                finder.find(decider, &latents[..latents.len().min(size * layout.coefficients)], n * size, before, found);
            }
        };
        let decide_all = || {
            for (n, part) in parts.iter().enumerate() {
                // While the other thread is at these cells, there are others.
                let mut later = n + 1..parts.len();
                let mut found = loop {
                    match (lock_if_free(part), later.next()) {
                        (Some(found), _) => break found,
                        (None, None) => break lock(part),
                        (None, Some(n)) => lock_if_free(&parts[n]).into_iter().for_each(|mut found| find(n, &mut found, own)),
                    }
                };
                find(n, &mut found, own);
                for (i, sizes) in found.cells.iter().enumerate() {
                    decide(n * size + i, &mut found.of(sizes));
                }
            }
        };
        let find_all = || {
            for (n, part) in parts.iter().enumerate() {
                lock_if_free(part).into_iter().for_each(|mut found| find(n, &mut found, other));
            }
        };
        pair.run(decide_all, find_all);
        let energies = self.parts.iter().map(lock).map(|found| [found.luma, found.chroma]);
        energies.fold([0.0; 2], |[luma, chroma], [l, c]| [luma + l, chroma + c])
    }
}

impl Finder {
    /// Examines `latents`, of the cells from `first_cell` on.
    fn find(&mut self, decider: &Decider<'_>, latents: &[i16], first_cell: usize, before: &impl Before, found: &mut Found) {
        found.candidates.clear();
        found.cells.clear();
        (found.luma, found.chroma) = (0.0, 0.0);
        for (n, latents) in latents.chunks_exact(decider.layer.layout.coefficients).enumerate() {
            let sizes = self.find_cell(decider, latents, first_cell + n, before, found);
            self.look_above(decider, first_cell + n, &sizes, &mut found.candidates);
            found.cells.push(sizes);
        }
    }

    /// Gives a cell's candidates their latents of the next layer, where that counts.
    fn look_above(&mut self, decider: &Decider<'_>, cell: usize, sizes: &Sizes, candidates: &mut [Candidate]) {
        let Some(above) = decider.above else { return };
        let layout = decider.layer.layout;
        let whole = &above.latents[cell * layout.coefficients..][..layout.coefficients];
        let mut loaded = false;
        for (size, own) in TransformSize::ALL.into_iter().zip(sizes) {
            let Some(own) = own.clone().filter(|own| !own.is_empty()) else { continue };
            let mut x = SizedLatents { whole, small: None };
            if let (Some(grid), TransformSize::Size8 | TransformSize::Size4) = (&layout.luma, size) {
                if !std::mem::replace(&mut loaded, true) {
                    grid.load(whole, &mut self.planes_above);
                }
                grid.forward(size, &self.planes_above, 0, &mut self.small_above);
                x.small = Some((grid, &self.small_above));
            }
            for one in &mut candidates[own] {
                one.above = x.get(layout, one.i.into());
            }
        }
    }

    fn find_cell(&mut self, decider: &Decider<'_>, whole: &[i16], cell: usize, before: &impl Before, found: &mut Found) -> Sizes {
        let layout = decider.layer.layout;
        let Self { sorter, planes, small, .. } = self;
        let Found { candidates, luma: luma_energy, chroma: chroma_energy, .. } = found;
        let c = layout.coefficients;
        let start = candidates.len();
        let [a, b] = decider.collect(cell, whole, candidates);
        sorter.sort(c, &mut candidates[start..]);
        *luma_energy += a;
        *chroma_energy += b;
        let known = before.size(cell);
        let few = luma(layout, &candidates[start..]).count() < FEW;
        let mut least = if known.is_none() && !few { estimate(decider, cell, luma(layout, &candidates[start..])) } else { 0.0 };
        let latents = SizedLatents { whole, small: None };
        let shown = before.add_shown(cell, latents, candidates, start);
        if add_constants(decider, cell, latents, candidates, start) || shown {
            sorter.sort(c, &mut candidates[start..]);
        }
        let end = candidates.len();
        let mut sizes: Sizes = [Some(start..end), None, None];
        let grid = match (&layout.luma, known) {
            (Some(grid), None) if !few => grid,
            (Some(grid), Some(TransformSize::Size8 | TransformSize::Size4)) => grid,
            _ => return sizes,
        };
        grid.load(whole, planes);
        let threshold = if known.is_some() { 0 } else { decider.least(Part::Main).min(decider.least(Part::LumaConstant)) };
        let doubt = DOUBT * decider.lambda() * COST_ONE_BIT as f32;
        for size in TransformSize::SMALL {
            if known.is_some_and(|known| known != size) {
                continue;
            }
            grid.forward(size, planes, threshold, small);
            let first = candidates.len();
            decider.collect_luma(cell, grid, small, candidates);
            if known.is_none() {
                let estimate = estimate(decider, cell, candidates[first..].iter());
                if estimate > least + doubt {
                    candidates.truncate(first);
                    continue;
                }
                least = least.min(estimate);
            }
            for n in start..end {
                let one = candidates[n];
                if layout.chroma[usize::from(one.i)] {
                    candidates.push(one);
                }
            }
            sorter.sort(c, &mut candidates[first..]);
            let latents = SizedLatents { whole, small: Some((grid, small)) };
            let shown = before.add_shown(cell, latents, candidates, first);
            if add_constants(decider, cell, latents, candidates, first) || shown {
                sorter.sort(c, &mut candidates[first..]);
            }
            sizes[1 + usize::from(size == TransformSize::Size4)] = Some(first..candidates.len());
        }
        if known.is_some() {
            sizes[0] = None;
        }
        sizes
    }
}

/// Adds the constant terms of an intra cell, which are predicted from other cells, to its candidates, out of order. Returns whether it
/// did.
fn add_constants(
    decider: &Decider<'_>,
    cell: usize,
    latents: SizedLatents<'_>,
    candidates: &mut Vec<Candidate>,
    first: usize,
) -> bool {
    let Layer { layout, index, .. } = decider.layer;
    if index > 0 || !decider.layer.intra(cell) {
        return false;
    }
    let large = candidates.len();
    for &i in &layout.constants {
        if !candidates[first..large].iter().any(|one| usize::from(one.i) == i) {
            candidates.push(Candidate { i: i as u16, x: latents.get(layout, i).max(-i16::MAX), above: 0, k: 0 });
        }
    }
    candidates.len() > large
}
