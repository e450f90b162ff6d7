// SPDX-License-Identifier: MIT OR Apache-2.0
//! The transform size of a cell: its luma as one block of 16x16, four of 8x8, or sixteen of 4x4.
//!
//! Graphs know the transform of 16x16 only. Here their latents are turned into those of the smaller transforms and back, in
//! integers, as `docs/bitstream.md` says.

use crate::entropy::BitCoder;

use super::contexts::Set;

/// Samples of a cell along one axis.
const N: usize = 16;
/// Coefficients of a cell in one frame, rows of N.
const PLANE: usize = N * N;
/// Fractional bits of the matrices. Their rows and columns have sums of magnitudes below 2^14: products with 15-bit
/// latents add up to less than 2^29.
const FRACTION: u32 = 12;

/// More than a latent gains by rounding in a conversion.
const ROUNDING: i16 = 16;

type Matrix = [[i16; N]; N];

/// The size of the blocks that a cell's luma is transformed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransformSize {
    /// One block of 16x16.
    #[default]
    Size16,
    /// Four blocks of 8x8.
    Size8,
    /// Sixteen blocks of 4x4.
    Size4,
}

impl TransformSize {
    /// By number.
    pub(super) const ALL: [Self; 3] = [Self::Size16, Self::Size8, Self::Size4];
    /// Those that are not the graphs' own.
    pub(super) const SMALL: [Self; 2] = [Self::Size8, Self::Size4];

    /// By number: 0, 1 and 2 are 16x16, 8x8 and 4x4.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|size| size.number() == number)
    }

    /// See [`from_number`](Self::from_number).
    pub fn number(self) -> i32 {
        match self {
            Self::Size16 => 0,
            Self::Size8 => 1,
            Self::Size4 => 2,
        }
    }

    /// From coefficients of 16x16 to those of this size; 16x16 needs none.
    fn matrix(self) -> Option<&'static Matrix> {
        match self {
            Self::Size16 => None,
            Self::Size8 => Some(&TO_8),
            Self::Size4 => Some(&TO_4),
        }
    }
}

/// Where a layout has the luma coefficients of 16x16 blocks.
#[derive(Debug, Clone)]
pub(super) struct LumaGrid {
    /// The graph's index of frame t, row v, column u, in this order.
    slots: Vec<u16>,
    /// Of each coefficient in token order, its place in this order; [`OTHER`] for chroma.
    places: Vec<u16>,
    /// Whether every frame's slots follow each other.
    contiguous: bool,
    /// The coefficients in token order by frame, u, v: as [`forward`](Self::forward) leaves them.
    pub ranks: Vec<u16>,
    /// From 16x16 to the sizes of [`TransformSize::SMALL`].
    small: [Factored; 2],
}

/// Luma latents of 16x16 of one frame.
#[derive(Debug, Clone)]
pub(super) struct Plane {
    rows: Rows,
    energy: f32,
}

/// Not a place in the grid.
const OTHER: u16 = u16::MAX;

impl LumaGrid {
    /// The grid of `positions` (component, t, v, u in token order), if luma is whole blocks of 16x16 in one or more frames.
    pub fn new(positions: &[[u16; 4]], slots: &[u16]) -> Option<Self> {
        let luma = || positions.iter().enumerate().filter(|(_, p)| p[0] == 0);
        let count = luma().count();
        if count == 0 || count % PLANE != 0 {
            return None;
        }
        let (mut slots_of, mut places) = (vec![0; count], vec![OTHER; positions.len()]);
        for (i, &[_, t, v, u]) in luma() {
            let [t, v, u] = [t, v, u].map(usize::from);
            let place = t * PLANE + v * N + u;
            if v >= N || u >= N || place >= count {
                return None;
            }
            // positions are distinct, so all places are taken
            slots_of[place] = slots[i];
            places[i] = place as u16;
        }
        let mut ranks = vec![0; count];
        for (i, &place) in places.iter().enumerate().filter(|(_, place)| **place != OTHER) {
            ranks[transposed(usize::from(place))] = i as u16;
        }
        let contiguous = slots_of.chunks_exact(PLANE).all(|frame| frame.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        Some(Self { slots: slots_of, places, contiguous, ranks, small: [Factored::to_8(), Factored::to_4()] })
    }

    /// Takes a cell's latents in the graph's order, for [`forward`](Self::forward).
    pub fn load(&self, latents: &[i16], planes: &mut Vec<Plane>) {
        planes.clear();
        for slots in self.slots.chunks_exact(PLANE) {
            let mut plane = [0; PLANE];
            if self.contiguous {
                plane.copy_from_slice(&latents[usize::from(slots[0])..][..PLANE]);
            } else {
                plane.iter_mut().zip(slots).for_each(|(to, slot)| *to = latents[usize::from(*slot)]);
            }
            let mut rows = [[0f32; N]; N];
            let mut squares = [0f32; N];
            for (row, latents) in rows.iter_mut().zip(plane.chunks_exact(N)) {
                row.iter_mut().zip(latents).for_each(|(to, x)| *to = f32::from((*x).max(-i16::MAX)));
                squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += *x * *x);
            }
            planes.push(Plane { rows, energy: squares.iter().sum() });
        }
    }

    /// Turns a cell's latents into those of `size`, which is not 16x16; they are in the order of [`ranks`](Self::ranks). Frames in which
    /// none comes out with a magnitude of `least` or more may be left zero, but for the constant term.
    pub fn forward(&self, size: TransformSize, planes: &[Plane], least: i16, latents: &mut Vec<i16>) {
        let matrix = &self.small[usize::from(size == TransformSize::Size4)];
        latents.clear();
        latents.resize(planes.len() * PLANE, 0);
        // the transforms are orthonormal, but for what rounding adds
        let enough = f32::from(least.saturating_sub(ROUNDING).max(0)).powi(2);
        for (out, plane) in latents.chunks_exact_mut(PLANE).zip(planes) {
            if plane.energy < enough {
                out[0] = plane.rows[0][0] as i16;
            } else {
                apply(matrix, &plane.rows, out);
            }
        }
    }

    /// The latent that [`forward`](Self::forward) gave the coefficient with this index in token order; `None` for chroma.
    pub fn latent(&self, latents: &[i16], i: usize) -> Option<i16> {
        self.has(i).then(|| latents[transposed(usize::from(self.places[i]))])
    }

    /// Adds to a cell's latents, zero so far, those of 16x16 luma blocks that `coefficients` of `size` stand for: pairs of an index in
    /// token order and a value. Chroma is left out.
    pub fn backward<T: From<i16>>(
        &self,
        size: TransformSize,
        coefficients: impl Iterator<Item = (usize, i16)> + Clone,
        latents: &mut [T],
    ) {
        let Some(matrix) = size.matrix() else { return };
        for (t, slots) in self.slots.chunks_exact(PLANE).enumerate() {
            let mut plane = [0; PLANE];
            let mut empty = true;
            for (i, value) in coefficients.clone() {
                let place = usize::from(self.places[i]);
                if place / PLANE == t {
                    plane[place % PLANE] = value;
                    empty = false;
                }
            }
            if empty {
                continue;
            }
            apply_transposed(matrix, &mut plane);
            for (value, slot) in plane.into_iter().zip(slots) {
                latents[usize::from(*slot)] = T::from(value);
            }
        }
    }

    /// Whether the coefficient with this index in token order is in the grid.
    pub fn has(&self, i: usize) -> bool {
        self.places[i] != OTHER
    }
}

fn rounded(sum: i32) -> i16 {
    ((sum + (1 << (FRACTION - 1))) >> FRACTION).clamp(-i32::from(i16::MAX), i32::from(i16::MAX)) as i16
}

/// Rows of a plane.
type Rows = [[f32; N]; N];

/// Of a place by frame, v, u, that by frame, u, v.
fn transposed(place: usize) -> usize {
    place / PLANE * PLANE + place % N * N + place % PLANE / N
}

fn transpose(rows: &Rows) -> Rows {
    std::array::from_fn(|u| std::array::from_fn(|v| rows[v][u]))
}

/// `out` = M * `rows` * transposed M, rounded and transposed. Only encoders do this, so floating point will do; it is faster.
fn apply(matrix: &Factored, rows: &Rows, out: &mut [i16]) {
    // added to a smaller number, it leaves that number rounded in the low bits
    const ROUND: f32 = 12_582_912.0;
    const LIMIT: f32 = i16::MAX as f32;
    let columns = matrix.times(&transpose(&matrix.times(rows)));
    for (out, row) in out.chunks_exact_mut(N).zip(&columns) {
        out.iter_mut().zip(row).for_each(|(to, x)| *to = (x.clamp(-LIMIT, LIMIT) + ROUND).to_bits() as i16);
    }
}

/// A matrix as the product of a sparser one and butterflies: blocks that mirror each other share the even and the odd columns.
#[derive(Debug, Clone)]
struct Factored {
    /// End of each row's entries.
    ends: [usize; N],
    /// Column and factor.
    entries: Vec<(usize, f32)>,
    /// Pairs of rows that are replaced by their sum and their difference, in order.
    butterflies: Vec<[usize; 2]>,
}

impl Factored {
    fn to_8() -> Self {
        Self::new(&TO_8, (1..8).map(|k| [2 * k, 2 * k + 1]).collect())
    }

    fn to_4() -> Self {
        let inner = (1..4).map(|k| if k % 2 == 0 { [4 * k, 4 * k + 1] } else { [4 * k + 3, 4 * k + 2] });
        let outer = (1..4).flat_map(|k| [[4 * k, 4 * k + 3], [4 * k + 1, 4 * k + 2]]);
        Self::new(&TO_4, inner.chain(outer).collect())
    }

    fn new(matrix: &Matrix, butterflies: Vec<[usize; 2]>) -> Self {
        let mut rows = matrix.map(|row| row.map(|factor| f32::from(factor) / (1 << FRACTION) as f32));
        for &[a, b] in butterflies.iter().rev() {
            let (x, y) = (rows[a], rows[b]);
            rows[a] = std::array::from_fn(|k| (x[k] + y[k]) / 2.0);
            rows[b] = std::array::from_fn(|k| (x[k] - y[k]) / 2.0);
        }
        let (mut ends, mut entries) = ([0; N], Vec::new());
        for (end, row) in ends.iter_mut().zip(&rows) {
            entries.extend(row.iter().copied().enumerate().filter(|(_, factor)| *factor != 0.0));
            *end = entries.len();
        }
        Self { ends, entries, butterflies }
    }

    /// M * `rows`.
    fn times(&self, rows: &Rows) -> Rows {
        let mut out = [[0f32; N]; N];
        let mut first = 0;
        for (out, end) in out.iter_mut().zip(self.ends) {
            let mut sums = [0f32; N];
            for &(k, factor) in &self.entries[first..end] {
                sums.iter_mut().zip(&rows[k % N]).for_each(|(sum, x)| *sum += factor * x);
            }
            *out = sums;
            first = end;
        }
        for &[a, b] in &self.butterflies {
            let (x, y) = (out[a % N], out[b % N]);
            out[a % N] = std::array::from_fn(|k| x[k] + y[k]);
            out[b % N] = std::array::from_fn(|k| x[k] - y[k]);
        }
        out
    }
}

/// `plane` = transposed M * plane * M: along columns first, then along rows, each rounded to whole numbers.
fn apply_transposed(matrix: &Matrix, plane: &mut [i16; PLANE]) {
    let rows = *plane;
    for (v, out) in plane.chunks_exact_mut(N).enumerate() {
        combine(matrix.iter().map(|factors| factors[v]).zip(rows.chunks_exact(N)), out);
    }
    for row in plane.chunks_exact_mut(N) {
        let mut sums = [0i32; N];
        for (x, factors) in row.iter().zip(matrix).filter(|(x, _)| **x != 0) {
            sums.iter_mut().zip(factors).for_each(|(sum, f)| *sum += i32::from(*f) * i32::from(*x));
        }
        row.iter_mut().zip(sums).for_each(|(x, sum)| *x = rounded(sum));
    }
}

/// The weighted sum of rows.
fn combine<'a>(rows: impl Iterator<Item = (i16, &'a [i16])>, out: &mut [i16]) {
    let mut sums = [0i32; N];
    for (factor, row) in rows.filter(|(factor, _)| *factor != 0) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += i32::from(factor) * i32::from(*x));
    }
    out.iter_mut().zip(sums).for_each(|(x, sum)| *x = rounded(sum));
}

/// The flags of a transform size: their contexts and values.
pub(super) fn flags(
    set: Set,
    left: Option<TransformSize>,
    top: Option<TransformSize>,
    size: TransformSize,
) -> [(usize, bool); 2] {
    let small = |cell: Option<TransformSize>| usize::from(cell.is_some_and(|s| s != TransformSize::Size16));
    let first = set.transform(small(left) + small(top));
    [(first, size != TransformSize::Size16), (first + 3, size == TransformSize::Size4)]
}

/// Codes the transform size of a cell: whether it is below 16x16, and if so, whether it is 4x4.
pub(super) fn code_size<C: BitCoder>(
    coder: &mut C,
    set: Set,
    left: Option<TransformSize>,
    top: Option<TransformSize>,
    wanted: TransformSize,
) -> TransformSize {
    let [(first, small), (second, smallest)] = flags(set, left, top, wanted);
    if !coder.bit(first, small) {
        TransformSize::Size16
    } else if !coder.bit(second, smallest) {
        TransformSize::Size8
    } else {
        TransformSize::Size4
    }
}

/// From 16x16 to 8x8, in 2^-12: row 2k + b is coefficient k of block b; the two constant terms are joined.
static TO_8: Matrix = [
    [4096, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [0, 3694, 0, -1247, 0, 768, 0, -571, 0, 468, 0, -411, 0, 378, 0, -364],
    [0, 1223, 2896, 2231, 0, -909, 0, 618, 0, -491, 0, 423, 0, -387, 0, 371],
    [0, 1223, -2896, 2231, 0, -909, 0, 618, 0, -491, 0, 423, 0, -387, 0, 371],
    [0, -240, 0, 1561, 2896, 2081, 0, -829, 0, 573, 0, -467, 0, 416, 0, -394],
    [0, 240, 0, -1561, 2896, -2081, 0, 829, 0, -573, 0, 467, 0, -416, 0, 394],
    [0, 99, 0, -389, 0, 1642, 2896, 2036, 0, -805, 0, 566, 0, -475, 0, 439],
    [0, 99, 0, -389, 0, 1642, -2896, 2036, 0, -805, 0, 566, 0, -475, 0, 439],
    [0, -51, 0, 179, 0, -434, 0, 1665, 2896, 2029, 0, -813, 0, 589, 0, -520],
    [0, 51, 0, -179, 0, 434, 0, -1665, 2896, -2029, 0, 813, 0, -589, 0, 520],
    [0, 29, 0, -96, 0, 202, 0, -442, 0, 1658, 2896, 2052, 0, -858, 0, 669],
    [0, 29, 0, -96, 0, 202, 0, -442, 0, 1658, -2896, 2052, 0, -858, 0, 669],
    [0, -16, 0, 52, 0, -103, 0, 195, 0, -418, 0, 1613, 2896, 2132, 0, -1008],
    [0, 16, 0, -52, 0, 103, 0, -195, 0, 418, 0, -1613, 2896, -2132, 0, 1008],
    [0, 7, 0, -23, 0, 45, 0, -80, 0, 150, 0, -338, 0, 1463, 2896, 2470],
    [0, 7, 0, -23, 0, 45, 0, -80, 0, 150, 0, -338, 0, 1463, -2896, 2470],
];

/// From 16x16 to 4x4: row 4k + b.
static TO_4: Matrix = [
    [4096, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [0, 3998, 0, 0, 0, 0, 0, -618, 0, 507, 0, 0, 0, 0, 0, -394],
    [0, 0, 3711, 0, 0, 0, -1303, 0, 0, 0, 871, 0, 0, 0, -738, 0],
    [0, 0, 0, 3259, 0, -2007, 0, 0, 0, 0, 0, 1073, 0, -989, 0, 0],
    [0, 240, 851, 1561, 2048, 2081, 1620, 829, 0, -573, -722, -467, 0, 416, 569, 394],
    [0, 578, 851, -647, -2048, -862, 1620, 2001, 0, -1384, -722, 194, 0, -172, 569, 952],
    [0, 578, -851, -647, 2048, -862, -1620, 2001, 0, -1384, 722, 194, 0, -172, -569, 952],
    [0, 240, -851, 1561, -2048, 2081, -1620, 829, 0, -573, 722, -467, 0, 416, -569, 394],
    [0, -51, -153, -179, 0, 434, 1051, 1665, 2048, 2029, 1573, 813, 0, -589, -769, -520],
    [0, -21, 153, 432, 0, -1049, -1051, 690, 2048, 840, -1573, -1962, 0, 1423, 769, -215],
    [0, 21, 153, -432, 0, 1049, -1051, -690, 2048, -840, -1573, 1962, 0, -1423, 769, 215],
    [0, 51, -153, 179, 0, -434, 1051, -1665, 2048, -2029, 1573, -813, 0, 589, -769, 520],
    [0, 16, 47, 52, 0, -103, -200, -195, 0, 418, 1004, 1613, 2048, 2132, 1773, 1008],
    [0, 39, 47, -22, 0, 43, -200, -470, 0, 1010, 1004, -668, -2048, -883, 1773, 2433],
    [0, 39, -47, -22, 0, 43, 200, -470, 0, 1010, -1004, -668, 2048, -883, -1773, 2433],
    [0, 16, -47, 52, 0, -103, 200, -195, 0, 418, -1004, 1613, -2048, 2132, -1773, 1008],
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Basis functions of a DCT of `n` samples.
    fn dct(n: usize) -> Vec<Vec<f64>> {
        let function = |k: usize| {
            let scale = (if k == 0 { 1.0 } else { 2.0 } / n as f64).sqrt();
            (0..n).map(|x| scale * (std::f64::consts::PI * (2 * x + 1) as f64 * k as f64 / (2 * n) as f64).cos()).collect()
        };
        (0..n).map(function).collect()
    }

    /// Basis functions of blocks of `m` samples along one axis of a cell, in the order of the coefficients.
    fn block_functions(m: usize) -> Vec<[f64; N]> {
        let (functions, blocks) = (dct(m), N / m);
        let join = dct(blocks);
        let function = |i: usize| {
            let (k, b) = (i / blocks, i % blocks);
            std::array::from_fn(|x| {
                let block = x / m;
                let weight = if k == 0 { join[b][block] } else { f64::from(u8::from(b == block)) };
                weight * functions[k][x % m]
            })
        };
        (0..N).map(function).collect()
    }

    fn random(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    fn forward(matrix: &Factored, plane: &mut [i16; PLANE]) {
        let mut out = [0; PLANE];
        let rows = std::array::from_fn(|v| std::array::from_fn(|u| f32::from(plane[v * N + u])));
        apply(matrix, &rows, &mut out);
        *plane = std::array::from_fn(|place| out[transposed(place)]);
    }

    #[test]
    fn factored_matrices_are_sparse_and_the_same() {
        let unit: Rows = std::array::from_fn(|v| std::array::from_fn(|u| f32::from(u8::from(u == v))));
        for (matrix, factored, most) in [(&TO_8, Factored::to_8(), 72), (&TO_4, Factored::to_4(), 79)] {
            let expected = matrix.map(|row| row.map(|factor| f32::from(factor) / 4096.0));
            assert_eq!(factored.times(&unit), expected);
            assert!(factored.entries.len() <= most, "{} products", factored.entries.len());
        }
    }

    #[test]
    fn matrices_are_the_rounded_products_of_bases() {
        let whole = dct(N);
        for (m, matrix) in [(8, &TO_8), (4, &TO_4)] {
            for (i, (function, row)) in block_functions(m).iter().zip(matrix).enumerate() {
                for (k, found) in row.iter().enumerate() {
                    let product: f64 = function.iter().zip(&whole[k]).map(|(a, b)| a * b).sum();
                    let exact = product * f64::from(1 << FRACTION);
                    assert_eq!(f64::from(*found), exact.round(), "{m}: {i}, {k}");
                    assert!((exact - exact.floor() - 0.5).abs() > 1e-3, "{m}: {i}, {k} is too near to a tie");
                }
            }
            // sums fit 32 bits, whatever the latents are
            let sum = |values: &mut dyn Iterator<Item = i16>| values.map(|f| i32::from(f).abs()).sum::<i32>();
            for i in 0..N {
                assert!(sum(&mut matrix[i].iter().copied()) < 1 << 14 && sum(&mut matrix.iter().map(|row| row[i])) < 1 << 14);
            }
        }
    }

    /// Against the specification, step by step, in wider integers.
    #[test]
    fn conversion_is_as_specified() {
        let plain = |matrix: &Matrix, x: &[i16]| -> Vec<i16> {
            let at = |i: usize, k: usize| i64::from(matrix[k][i]);
            let round = |sum: i64| ((sum + 2048) >> 12).clamp(-32767, 32767);
            let rows = |x: &[i64]| -> Vec<i64> {
                (0..PLANE).map(|p| round((0..N).map(|k| at(p % N, k) * x[p / N * N + k]).sum())).collect()
            };
            let columns = |x: &[i64]| -> Vec<i64> {
                (0..PLANE).map(|p| round((0..N).map(|k| at(p / N, k) * x[k * N + p % N]).sum())).collect()
            };
            let x: Vec<i64> = x.iter().map(|v| i64::from(*v)).collect();
            rows(&columns(&x)).into_iter().map(|v| v as i16).collect()
        };
        let mut random = random(7);
        for trial in 0..200 {
            let scale = [30.0, 900.0, 32767.0][trial % 3];
            let share = [0.05, 0.5, 1.1][trial / 3 % 3];
            let mut x = [0i16; PLANE];
            for v in &mut x {
                if random() < share {
                    *v = ((random() * 2.0 - 1.0) * scale).round() as i16;
                    if trial % 7 == 0 {
                        *v = v.signum() * scale as i16;
                    }
                }
            }
            for matrix in [&TO_8, &TO_4] {
                let mut back = x;
                apply_transposed(matrix, &mut back);
                assert_eq!(back[..], plain(matrix, &x));
            }
        }
    }

    /// The latents of blocks in pixels: what the small transforms say of a picture.
    #[test]
    fn small_transforms_are_those_of_blocks() {
        let mut random = random(3);
        let pixels: Vec<f64> = (0..PLANE).map(|_| random() * 1600.0 - 800.0).collect();
        let transform = |basis: &[[f64; N]]| -> Vec<f64> {
            let one = |v: usize, u: usize| (0..PLANE).map(|p| basis[v][p / N] * basis[u][p % N] * pixels[p]).sum();
            (0..PLANE).map(|p| one(p / N, p % N)).collect()
        };
        let whole: Vec<[f64; N]> = dct(N).into_iter().map(|f| f.try_into().expect("16")).collect();
        let latents = transform(&whole);
        for (m, matrix, factored) in [(8, &TO_8, Factored::to_8()), (4, &TO_4, Factored::to_4())] {
            let mut plane: [i16; PLANE] = std::array::from_fn(|p| latents[p].round() as i16);
            let before = plane;
            forward(&factored, &mut plane);
            let expected = transform(&block_functions(m));
            assert!(plane.iter().zip(&expected).all(|(a, b)| (f64::from(*a) - b).abs() < 4.0));
            apply_transposed(matrix, &mut plane);
            assert!(plane.iter().zip(&before).all(|(a, b)| (i32::from(*a) - i32::from(*b)).abs() <= 4), "{m}: not inverse");
        }
    }

    #[test]
    fn constant_terms_are_the_same_in_all_sizes() {
        for (matrix, factored) in [(&TO_8, Factored::to_8()), (&TO_4, Factored::to_4())] {
            for value in [-32767, -1, 0, 5, 32767] {
                let mut plane = [0; PLANE];
                plane[0] = value;
                let before = plane;
                forward(&factored, &mut plane);
                assert_eq!(plane, before);
                apply_transposed(matrix, &mut plane);
                assert_eq!(plane, before);
            }
        }
    }
}
