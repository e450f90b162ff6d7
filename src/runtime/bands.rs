// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bands: rows of cells that are decoded by themselves, one for each thread. Most operators of a graph are too small for several threads to
//! share; several runs at a time share nothing.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::frame::Geometry;
use crate::tokens::motion::BLENDED;
use crate::{Error, Result};

/// Time that a cell takes, in parts of what any takes: those near cells with tokens are filtered, those with tokens transformed, and blended
/// ones predicted several times. By regression over runs on random rows of two clips.
const NEAR: u32 = 2;
const CODED: u32 = 4;
const MIXED: u32 = 8;

/// Where bands of a picture begin and end, so that they take about the same time.
#[derive(Debug)]
pub(super) struct Balance {
    /// Rows above and below a band that it depends on: its run decodes them too.
    halo: usize,
    /// Of the rows before each, and of all.
    sums: Vec<u32>,
}

impl Balance {
    pub fn new(picture: &Geometry, halo: usize) -> Self {
        Self { halo, sums: vec![0; picture.cells_y + 1] }
    }

    /// Estimates the time that rows of cells with these counts and motion take. `predicts`: whether the graph predicts them, too.
    pub fn weigh(&mut self, picture: &Geometry, counts: &[i32], motion: &[i32], predicts: bool) {
        let (width, cells) = (picture.cells_x, picture.cells());
        let coded = |row: usize| &counts[row * width..(row + 1) * width];
        let modes = &motion[2 * cells..3 * cells];
        for row in 0..picture.cells_y {
            let near = row.saturating_sub(1)..(row + 2).min(picture.cells_y);
            let is_near = |x: usize| {
                let beside = x.saturating_sub(1)..(x + 2).min(width);
                near.clone().any(|row| coded(row)[beside.clone()].iter().any(|n| *n > 0))
            };
            let near = (0..width).filter(|x| is_near(*x)).count() as u32;
            let tokens = coded(row).iter().filter(|n| **n > 0).count() as u32;
            let blended = modes[row * width..(row + 1) * width].iter().filter(|m| **m == BLENDED).count() as u32;
            let mixed = if predicts { MIXED * blended } else { 0 };
            self.sums[row + 1] = self.sums[row] + width as u32 + NEAR * near + CODED * tokens + mixed;
        }
    }

    /// The rows that a run for these decodes.
    pub fn with_halo(&self, own: &Range<usize>) -> Range<usize> {
        own.start.saturating_sub(self.halo)..(own.end + self.halo).min(self.sums.len() - 1)
    }

    fn time(&self, own: &Range<usize>) -> u32 {
        let rows = self.with_halo(own);
        self.sums[rows.end] - self.sums[rows.start]
    }

    /// The end of the longest band from a row on that takes no longer than this.
    fn reach(&self, start: usize, most: u32) -> usize {
        (start + 1..self.sums.len()).take_while(|end| self.time(&(start..*end)) <= most).last().unwrap_or(start)
    }

    /// Sets each of `bands`, of which the longest is as short as can be, in order from the first row to the last. Some may be empty.
    pub fn place<'a>(&self, bands: impl ExactSizeIterator<Item = &'a mut Range<usize>>) {
        let (rows, number) = (self.sums.len() - 1, bands.len());
        let covers = |most: u32| (0..number).fold(0, |start, _| self.reach(start, most)) == rows;
        let (mut least, mut most) = (0, self.sums[rows]);
        while least < most {
            let middle = least.midpoint(most);
            if covers(middle) {
                most = middle;
            } else {
                least = middle + 1;
            }
        }
        let mut start = 0;
        for band in bands {
            *band = start..self.reach(start, most);
            start = band.end;
        }
    }
}

/// A picture in equal bands for so many threads, none of them empty.
pub(super) fn equal_bands(picture: &Geometry, threads: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
    let (rows, bands) = (picture.cells_y, threads.clamp(1, picture.cells_y));
    (0..bands).map(move |i| rows * i / bands..rows * (i + 1) / bands)
}

/// What bands give of a tensor, each with its place in that of the picture.
pub(super) fn placed<'a, T>(
    whole: &'a mut [T],
    parts: impl Iterator<Item = &'a [T]>,
) -> impl Iterator<Item = (&'a mut [T], &'a [T])> {
    let mut rest = whole;
    parts.map(move |part| {
        let (place, others) = std::mem::take(&mut rest).split_at_mut(part.len());
        rest = others;
        (place, part)
    })
}

/// Writes some rows of cells of an I420 frame into another one.
pub(super) fn copy_rows(picture: &Geometry, rows: &Range<usize>, from: &[u8], to: &mut [u8]) {
    let luma = picture.aligned_width * picture.aligned_height;
    let row = luma / picture.cells_y;
    for (plane, row) in [(0, row), (luma, row / 4), (luma + luma / 4, row / 4)] {
        let part = plane + rows.start * row..plane + rows.end * row;
        to[part.clone()].copy_from_slice(&from[part]);
    }
}

/// Threads for bands.
#[derive(Debug)]
pub(super) struct Workers(Option<rayon::ThreadPool>);

impl Workers {
    /// The caller, and threads for all bands but one.
    pub fn new(bands: usize) -> Result<Self> {
        let pool = || rayon::ThreadPoolBuilder::new().num_threads(bands - 1).thread_name(|_| "elastictok-band".into()).build();
        let pool = (bands > 1).then(pool).transpose();
        Ok(Self(pool.map_err(|e| Error::Runtime(format!("no threads for bands of a picture: {e}; set threads=1")))?))
    }

    /// Does the work of all `jobs` at a time. Returns one of their errors, if there are any.
    pub fn each<T: Send>(&self, jobs: impl IntoIterator<Item = T>, work: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
        let mut jobs = jobs.into_iter();
        let Some(pool) = &self.0 else { return jobs.try_for_each(work) };
        let failed = Mutex::new(Ok(()));
        let work = |job: T| {
            if let Err(error) = work(job) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Err(error);
            }
        };
        let first = jobs.next();
        pool.in_place_scope(|scope| {
            let work = &work;
            jobs.for_each(|job| scope.spawn(move |_| work(job)));
            first.into_iter().for_each(work);
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::frame::PixelFormat;

    fn picture(cells_x: usize, cells_y: usize) -> Geometry {
        Geometry::new(16 * cells_x as u32, 16 * cells_y as u32, PixelFormat::I420, [16, 16], [16, 16]).expect("size")
    }

    /// Bands of a picture of so many rows, of which some are coded.
    fn bands(rows: usize, number: usize, coded: Range<usize>) -> Vec<Range<usize>> {
        let picture = picture(4, rows);
        let counts: Vec<i32> = (0..picture.cells()).map(|cell| i32::from(coded.contains(&(cell / 4)))).collect();
        let mut balance = Balance::new(&picture, 3);
        balance.weigh(&picture, &counts, &vec![0; 5 * picture.cells()], true);
        let mut found = vec![0..0; number];
        balance.place(found.iter_mut());
        assert_eq!(found.iter().cloned().flatten().collect::<Vec<_>>(), (0..rows).collect::<Vec<_>>());
        found
    }

    #[test]
    fn bands_take_the_same_time_and_cover_the_picture() {
        assert_eq!(bands(45, 1, 0..0), vec![0..45; 1]);
        assert_eq!(bands(44, 2, 0..0), [0..22, 22..44]);
        assert_eq!(bands(1, 2, 0..1), [0..1, 1..1]);
        let below = bands(45, 2, 30..45);
        assert!((31..40).contains(&below[0].end), "{below:?}: most work is where tokens are");
        let all = bands(68, 4, 0..68);
        assert!(all.iter().all(|own| (14..21).contains(&own.len())), "{all:?}: those in the middle have two halos");
        for (rows, number) in [(9, 2), (135, 16), (5, 8)] {
            bands(rows, number, 2..4);
        }
    }

    #[test]
    fn equal_bands_cover_the_picture() {
        let bands = |rows, threads| equal_bands(&picture(1, rows), threads).collect::<Vec<_>>();
        assert_eq!(bands(45, 2), [0..22, 22..45]);
        assert_eq!(bands(1, 4), vec![0..1; 1]);
        assert_eq!(bands(5, 4), [0..1, 1..2, 2..3, 3..5]);
    }

    #[test]
    fn parts_lie_one_after_the_other() {
        let mut whole = [0; 6];
        placed(&mut whole, [&[1, 2][..], &[], &[3, 4, 5, 6]].into_iter()).for_each(|(place, part)| place.copy_from_slice(part));
        assert_eq!(whole, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn halos_end_with_the_picture() {
        let balance = Balance::new(&picture(1, 20), 3);
        assert_eq!([0..20, 0..7, 7..9, 15..20].map(|own| balance.with_halo(&own)), [0..20, 0..10, 4..12, 12..20]);
    }

    #[test]
    fn rows_of_all_planes_are_copied() {
        let picture = picture(3, 5);
        let from: Vec<u8> = (0..picture.frame_bytes()).map(|i| 1 + (i * 31 % 251) as u8).collect();
        let mut to = vec![0; from.len()];
        copy_rows(&picture, &(1..3), &from, &mut to);
        assert_eq!(to.iter().filter(|p| **p > 0).count(), 2 * 3 * 384);
        assert!(to[..16 * 48].iter().all(|p| *p == 0) && to[16 * 48..48 * 48] == from[16 * 48..48 * 48]);
        [0..1, 3..5].iter().for_each(|rows| copy_rows(&picture, rows, &from, &mut to));
        assert!(to == from);
    }

    #[test]
    fn every_job_is_done_and_errors_come_back() {
        for bands in 1..4 {
            let workers = Workers::new(bands).expect("threads");
            let sum = AtomicU32::new(0);
            let add = |n: u32| {
                sum.fetch_add(n, Relaxed);
                if n == 4 { Err(Error::Runtime("four".into())) } else { Ok(()) }
            };
            workers.each([1, 2], add).expect("both succeed");
            assert_eq!(sum.load(Relaxed), 3);
            assert!(workers.each([1, 4], add).is_err_and(|e| e.to_string().contains("four")));
        }
    }
}
