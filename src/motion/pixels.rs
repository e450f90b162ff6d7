// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packed operations of the search, on sixteen samples at a time, safe on every target.
//!
//! On x86-64 they are SSE2 instructions, or AVX2 instructions on two rows of sixteen where the processor has them; elsewhere the compiler
//! vectorises loops over sixteen bytes. All give the same sums.

/// Samples in a [`Lane`].
pub(super) const LANE: usize = 16;

/// A way to compare rows of [`LANE`] samples.
pub(super) trait Machine: Copy {
    /// Rows at a time: 1 or 2.
    const ROWS: usize;
    type Lane: Copy;
    type Sum: Copy;

    /// `second` is only asked for two rows at a time.
    fn load<'a>(self, first: &[u8; LANE], second: impl FnOnce() -> &'a [u8; LANE]) -> Self::Lane;

    /// Means, halves rounded up.
    fn mean(self, a: Self::Lane, b: Self::Lane) -> Self::Lane;

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
    fn mean(self, a: Lane, b: Lane) -> Lane {
        a.mean(b)
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

    use super::{LANE, Machine};

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
        fn mean(self, a: Lane, b: Lane) -> Lane {
            // SAFETY: the processor has AVX2.
            Lane(unsafe { _mm256_avg_epu8(a.0, b.0) })
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

#[cfg(test)]
mod tests {
    use super::{portable, sse2};

    #[test]
    fn both_kinds_of_lanes_agree() {
        let mut state = 1u32;
        let mut random = || -> [u8; 16] {
            std::array::from_fn(|i| {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                if i % 5 == 0 { (state >> 31) as u8 * 255 } else { (state >> 24) as u8 }
            })
        };
        for _ in 0..1000 {
            let (a, b, c) = (random(), random(), random());
            let [low, high] = [&a, &b].map(|s| <[u8; 8]>::try_from(&s[4..12]).expect("eight of sixteen"));
            let fast = {
                use sse2::{Lane, Sum};
                Sum::zero()
                    .add(Lane::new(&a).mean(Lane::new(&b)), Lane::new(&c))
                    .add(Lane::of_halves(&low, &high), Lane::new(&b))
                    .total()
            };
            let plain = {
                use portable::{Lane, Sum};
                Sum::zero()
                    .add(Lane::new(&a).mean(Lane::new(&b)), Lane::new(&c))
                    .add(Lane::of_halves(&low, &high), Lane::new(&b))
                    .total()
            };
            assert_eq!(fast, plain);
        }
    }
}
