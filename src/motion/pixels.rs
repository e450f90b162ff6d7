// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packed operations of the search, on sixteen samples at a time, safe on every target.
//!
//! On x86-64 they are SSE2 instructions, or AVX2 instructions on two rows of sixteen where the processor has them; elsewhere the compiler
//! vectorises loops over sixteen bytes. All give the same sums.

/// Samples in a [`Lane`].
pub(super) const LANE: usize = 16;
/// Rows of as many samples, one after the other.
pub(super) type Cell = [u8; LANE * LANE];

/// A way to compare rows of [`LANE`] samples.
pub(super) trait Machine: Copy {
    /// Rows at a time: 1 or 2.
    const ROWS: usize;
    type Lane: Copy;
    type Sum: Copy;

    /// `second` is only asked for two rows at a time.
    fn load<'a>(self, first: &[u8; LANE], second: impl FnOnce() -> &'a [u8; LANE]) -> Self::Lane;

    /// Row `r` of a cell whose rows follow each other, and as many after it as there are at a time.
    fn of_cell(self, cell: &Cell, r: usize) -> Self::Lane;

    /// Means, halves rounded up.
    fn mean(self, a: Self::Lane, b: Self::Lane) -> Self::Lane;

    /// Of each row the first half of `a` and the second of `b`.
    fn halves(self, a: Self::Lane, b: Self::Lane) -> Self::Lane;

    /// The sum of `parts` times `weights`, that add up to two to the power of `BITS`, at most 128, divided by that and rounded, halves up.
    fn mix<const BITS: i32>(self, parts: [Self::Lane; 3], weights: [Self::Lane; 3]) -> Self::Lane;

    fn zero(self) -> Self::Sum;

    /// Adds the sum of absolute differences.
    fn add(self, sum: Self::Sum, a: Self::Lane, b: Self::Lane) -> Self::Sum;

    fn total(self, sum: Self::Sum) -> u32;
}

/// What every processor of the target has: [`Lane`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Common;

impl Machine for Common {
    const ROWS: usize = 1;
    type Lane = Lane;
    type Sum = Sum;

    #[inline(always)]
    fn load<'a>(self, first: &[u8; LANE], _: impl FnOnce() -> &'a [u8; LANE]) -> Lane {
        Lane::new(first)
    }

    #[inline(always)]
    fn of_cell(self, cell: &Cell, r: usize) -> Lane {
        Lane::new(cell[r * LANE..(r + 1) * LANE].try_into().expect("a row"))
    }

    #[inline(always)]
    fn mean(self, a: Lane, b: Lane) -> Lane {
        a.mean(b)
    }

    #[inline(always)]
    fn halves(self, a: Lane, b: Lane) -> Lane {
        a.halves(b)
    }

    #[inline(always)]
    fn mix<const BITS: i32>(self, parts: [Lane; 3], weights: [Lane; 3]) -> Lane {
        Lane::mix::<BITS>(parts, weights)
    }

    #[inline(always)]
    fn zero(self) -> Sum {
        Sum::zero()
    }

    #[inline(always)]
    fn add(self, sum: Sum, a: Lane, b: Lane) -> Sum {
        sum.add(a, b)
    }

    #[inline(always)]
    fn total(self, sum: Sum) -> u32 {
        sum.total()
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use sse2::{Lane, Sum};

#[cfg(not(target_arch = "x86_64"))]
pub(super) use portable::{Lane, Sum};

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "intrinsics of a feature that the target always has")]
mod sse2 {
    use std::arch::x86_64::*;

    /// Sixteen samples.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Lane(__m128i);

    /// Sums of absolute differences so far.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Sum(__m128i);

    impl Lane {
        #[inline(always)]
        pub(in super::super) fn new(s: &[u8; 16]) -> Self {
            let all = u128::from_le_bytes(*s);
            // SAFETY: every x86-64 processor has SSE2.
            Self(unsafe { _mm_set_epi64x((all >> 64) as i64, all as i64) })
        }

        /// Two rows of eight.
        #[inline(always)]
        pub(in super::super) fn of_halves(low: &[u8; 8], high: &[u8; 8]) -> Self {
            // SAFETY: every x86-64 processor has SSE2.
            Self(unsafe { _mm_set_epi64x(i64::from_le_bytes(*high), i64::from_le_bytes(*low)) })
        }

        /// Means, halves rounded up.
        #[inline(always)]
        pub(in super::super) fn mean(self, other: Self) -> Self {
            // SAFETY: every x86-64 processor has SSE2.
            Self(unsafe { _mm_avg_epu8(self.0, other.0) })
        }

        /// The first half, and the second of another.
        #[inline(always)]
        pub(in super::super) fn halves(self, other: Self) -> Self {
            // SAFETY: every x86-64 processor has SSE2.
            Self(unsafe { _mm_castpd_si128(_mm_shuffle_pd::<2>(_mm_castsi128_pd(self.0), _mm_castsi128_pd(other.0))) })
        }

        /// [`Machine::mix`](super::Machine::mix).
        #[inline(always)]
        pub(in super::super) fn mix<const BITS: i32>(parts: [Self; 3], weights: [Self; 3]) -> Self {
            // SAFETY: every x86-64 processor has SSE2.
            unsafe {
                let (zero, half) = (_mm_setzero_si128(), _mm_set1_epi16(1 << (BITS - 1)));
                let [mut low, mut high] = [half; 2];
                for (Self(part), Self(weight)) in parts.into_iter().zip(weights) {
                    low = _mm_add_epi16(low, _mm_mullo_epi16(_mm_unpacklo_epi8(part, zero), _mm_unpacklo_epi8(weight, zero)));
                    high = _mm_add_epi16(high, _mm_mullo_epi16(_mm_unpackhi_epi8(part, zero), _mm_unpackhi_epi8(weight, zero)));
                }
                Self(_mm_packus_epi16(_mm_srli_epi16::<BITS>(low), _mm_srli_epi16::<BITS>(high)))
            }
        }
    }

    impl Sum {
        pub(in super::super) fn zero() -> Self {
            // SAFETY: every x86-64 processor has SSE2.
            Self(unsafe { _mm_setzero_si128() })
        }

        /// Adds the sum of absolute differences.
        #[inline(always)]
        pub(in super::super) fn add(self, a: Lane, b: Lane) -> Self {
            // SAFETY: every x86-64 processor has SSE2.
            Self(unsafe { _mm_add_epi32(self.0, _mm_sad_epu8(a.0, b.0)) })
        }

        #[inline(always)]
        pub(in super::super) fn total(self) -> u32 {
            // SAFETY: every x86-64 processor has SSE2.
            unsafe { (_mm_cvtsi128_si32(self.0) + _mm_extract_epi16::<4>(self.0)) as u32 }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "intrinsics of a feature that was looked for")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Cell, LANE, Machine};

    /// Proof that the processor has AVX2. Lanes and sums come from here alone, so they prove it too.
    #[derive(Debug, Clone, Copy)]
    pub(in super::super) struct Avx2(());

    impl Avx2 {
        pub(in super::super) fn detect() -> Option<Self> {
            is_x86_feature_detected!("avx2").then_some(Self(()))
        }
    }

    #[derive(Clone, Copy)]
    pub(in super::super) struct Lane(__m256i);

    #[derive(Clone, Copy)]
    pub(in super::super) struct Sum(__m256i);

    impl Machine for Avx2 {
        const ROWS: usize = 2;
        type Lane = Lane;
        type Sum = Sum;

        #[inline(always)]
        fn load<'a>(self, first: &[u8; LANE], second: impl FnOnce() -> &'a [u8; LANE]) -> Lane {
            let half = |row: &[u8; LANE]| {
                let all = u128::from_le_bytes(*row);
                // SAFETY: every x86-64 processor has SSE2.
                unsafe { _mm_set_epi64x((all >> 64) as i64, all as i64) }
            };
            // SAFETY: the processor has AVX2.
            Lane(unsafe { _mm256_set_m128i(half(second()), half(first)) })
        }

        #[inline(always)]
        fn of_cell(self, cell: &Cell, r: usize) -> Lane {
            let rows: &[u8; 2 * LANE] = cell[r * LANE..(r + 2) * LANE].try_into().expect("two rows");
            // SAFETY: the processor has AVX2, and there are 32 bytes.
            Lane(unsafe { _mm256_loadu_si256(rows.as_ptr().cast()) })
        }

        #[inline(always)]
        fn mean(self, a: Lane, b: Lane) -> Lane {
            // SAFETY: the processor has AVX2.
            Lane(unsafe { _mm256_avg_epu8(a.0, b.0) })
        }

        #[inline(always)]
        fn halves(self, a: Lane, b: Lane) -> Lane {
            // SAFETY: the processor has AVX2.
            Lane(unsafe { _mm256_blend_epi32::<0b1100_1100>(a.0, b.0) })
        }

        #[inline(always)]
        fn mix<const BITS: i32>(self, [a, b, c]: [Lane; 3], [of_a, of_b, of_c]: [Lane; 3]) -> Lane {
            // SAFETY: the processor has AVX2.
            unsafe {
                let (zero, half) = (_mm256_setzero_si256(), _mm256_set1_epi16(1 << (BITS - 1)));
                // pairs of samples times pairs of weights
                let two = _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a.0, b.0), _mm256_unpacklo_epi8(of_a.0, of_b.0));
                let third = _mm256_maddubs_epi16(_mm256_unpacklo_epi8(c.0, zero), _mm256_unpacklo_epi8(of_c.0, zero));
                let low = _mm256_add_epi16(_mm256_add_epi16(two, third), half);
                let two = _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a.0, b.0), _mm256_unpackhi_epi8(of_a.0, of_b.0));
                let third = _mm256_maddubs_epi16(_mm256_unpackhi_epi8(c.0, zero), _mm256_unpackhi_epi8(of_c.0, zero));
                let high = _mm256_add_epi16(_mm256_add_epi16(two, third), half);
                Lane(_mm256_packus_epi16(_mm256_srli_epi16::<BITS>(low), _mm256_srli_epi16::<BITS>(high)))
            }
        }

        #[inline(always)]
        fn zero(self) -> Sum {
            // SAFETY: the processor has AVX2.
            Sum(unsafe { _mm256_setzero_si256() })
        }

        #[inline(always)]
        fn add(self, sum: Sum, a: Lane, b: Lane) -> Sum {
            // SAFETY: the processor has AVX2.
            Sum(unsafe { _mm256_add_epi32(sum.0, _mm256_sad_epu8(a.0, b.0)) })
        }

        #[inline(always)]
        fn total(self, sum: Sum) -> u32 {
            // SAFETY: the processor has AVX2.
            unsafe {
                let both = _mm_add_epi32(_mm256_castsi256_si128(sum.0), _mm256_extracti128_si256::<1>(sum.0));
                (_mm_cvtsi128_si32(both) + _mm_extract_epi16::<4>(both)) as u32
            }
        }
    }
}

#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    #[derive(Clone, Copy)]
    pub(in super::super) struct Lane([u8; 16]);

    #[derive(Clone, Copy)]
    pub(in super::super) struct Sum(u32);

    impl Lane {
        #[inline(always)]
        pub(in super::super) fn new(s: &[u8; 16]) -> Self {
            Self(*s)
        }

        #[inline(always)]
        pub(in super::super) fn of_halves(low: &[u8; 8], high: &[u8; 8]) -> Self {
            let mut all = [0; 16];
            all[..8].copy_from_slice(low);
            all[8..].copy_from_slice(high);
            Self(all)
        }

        #[inline(always)]
        pub(in super::super) fn mean(self, other: Self) -> Self {
            let mut out = [0; 16];
            for ((o, a), b) in out.iter_mut().zip(self.0).zip(other.0) {
                *o = (u16::from(a) + u16::from(b)).div_ceil(2) as u8;
            }
            Self(out)
        }

        #[inline(always)]
        pub(in super::super) fn halves(self, other: Self) -> Self {
            Self(std::array::from_fn(|i| if i < 8 { self.0[i] } else { other.0[i] }))
        }

        #[inline(always)]
        pub(in super::super) fn mix<const BITS: i32>(parts: [Self; 3], weights: [Self; 3]) -> Self {
            let sum = |i: usize| parts.iter().zip(&weights).map(|(p, w)| u16::from(p.0[i]) * u16::from(w.0[i])).sum::<u16>();
            Self(std::array::from_fn(|i| ((sum(i) + (1 << (BITS - 1))) >> BITS) as u8))
        }
    }

    impl Sum {
        pub(in super::super) fn zero() -> Self {
            Self(0)
        }

        #[inline(always)]
        pub(in super::super) fn add(self, a: Lane, b: Lane) -> Self {
            Self(self.0 + a.0.iter().zip(b.0).map(|(a, b)| u32::from(a.abs_diff(b))).sum::<u32>())
        }

        #[inline(always)]
        pub(in super::super) fn total(self) -> u32 {
            self.0
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    type Row = [u8; LANE];

    /// Sums of lanes made by every operation from some samples.
    macro_rules! sums {
        ($kind:ident, $rows:expr, $weights:expr) => {{
            use $kind::{Lane, Sum};
            let [a, b, c] = $rows.map(|row| Lane::new(&row));
            let [low, high] = [0, 1].map(|i| <&[u8; 8]>::try_from(&$rows[i][4..12]).expect("eight of sixteen"));
            let mixed = Lane::mix::<5>([a, b, c], $weights.map(|row| Lane::new(&row)));
            [a.mean(b), a.halves(b), mixed, Lane::of_halves(low, high)].map(|lane| Sum::zero().add(lane, c).add(a, b).total())
        }};
    }

    /// The same by a machine, over two rows.
    fn sums_by<M: Machine>(m: M, rows: [[Row; 2]; 3], weights: [[Row; 2]; 3]) -> [u32; 3] {
        let mut sums = [m.zero(); 3];
        for r in (0..2).step_by(M::ROWS) {
            let load = |rows: [Row; 2]| m.load(&rows[r], || &rows[1]);
            let [a, b, c] = rows.map(load);
            let made = [m.mean(a, b), m.halves(a, b), m.mix::<5>([a, b, c], weights.map(load))];
            for (sum, lane) in sums.iter_mut().zip(made) {
                *sum = m.add(*sum, lane, c);
            }
        }
        sums.map(|sum| m.total(sum))
    }

    #[test]
    fn all_kinds_of_lanes_agree() {
        let mut state = 1u32;
        let mut random = || -> Row {
            std::array::from_fn(|i| {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                if i % 5 == 0 { (state >> 31) as u8 * 255 } else { (state >> 24) as u8 }
            })
        };
        let avx2 = Avx2::detect();
        if avx2.is_none() {
            eprintln!("skipped in part: this processor has no AVX2");
        }
        for _ in 0..1000 {
            let rows = [(); 3].map(|()| [random(), random()]);
            let [a, b] = [(); 2].map(|()| [random(), random()].map(|row| row.map(|w| w % 17)));
            let rest = [0, 1].map(|r| std::array::from_fn(|i| 32 - a[r][i] - b[r][i]));
            let weights = [a, b, rest];
            for r in 0..2 {
                let (rows, weights) = (rows.map(|rows| rows[r]), weights.map(|rows| rows[r]));
                assert_eq!(sums!(sse2, rows, weights), sums!(portable, rows, weights));
            }
            if let Some(avx2) = avx2 {
                assert_eq!(sums_by(avx2, rows, weights), sums_by(Common, rows, weights));
            }
        }
    }
}
