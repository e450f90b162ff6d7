// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which of many latents are large: most are not, and this has to be fast. Every processor finds the same.

/// Latents at a time.
pub(super) const CHUNK: usize = 64;

/// One bit for each of at most [`CHUNK`] latents: whether its magnitude is `least` or more. `least` >= 1.
#[inline]
pub(super) fn large(x: &[i16], least: i16) -> u64 {
    debug_assert!(x.len() <= CHUNK);
    #[cfg(target_arch = "x86_64")]
    if let Ok(x) = x.try_into() {
        return sse2::large(x, least);
    }
    portable(x, least)
}

fn portable(x: &[i16], least: i16) -> u64 {
    x.iter().enumerate().fold(0, |bits, (i, v)| bits | u64::from(v.saturating_abs() >= least) << i)
}

/// A magnitude below which the squares of [`CHUNK`] latents add up in 32 bits.
pub(super) const SMALL: i16 = 4096;

/// [`large`], and the sum of squares.
#[inline]
pub(super) fn large_and_squares(x: &[i16], least: i16) -> (u64, f64) {
    let (found, squares) = found_and_squares(x, least);
    let huge = if found == 0 { least > SMALL } else { large(x, SMALL) != 0 };
    (found, if huge { x.iter().map(|&v| f64::from(v) * f64::from(v)).sum() } else { f64::from(squares) })
}

/// [`large`], and the sum of squares if all latents are below [`SMALL`].
#[inline]
fn found_and_squares(x: &[i16], least: i16) -> (u64, i32) {
    // As a function of its own it is vectorised; inlined into the loops that call it, it is not.
    #[inline(never)]
    fn squares(x: &[i16]) -> i32 {
        x.iter().fold(0, |sum: i32, &v| sum.wrapping_add(i32::from(v) * i32::from(v)))
    }
    #[cfg(target_arch = "x86_64")]
    if let Ok(x) = x.try_into()
        && is_x86_feature_detected!("avx2")
    {
        #[allow(unsafe_code, reason = "a call of a function for processors with AVX2")]
        // SAFETY: the processor has AVX2.
        return unsafe { avx2::found_and_squares(x, least) };
    }
    (large(x, least), squares(x))
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "intrinsics of a feature that the target always has")]
mod sse2 {
    use std::arch::x86_64::*;

    use super::CHUNK;

    #[inline]
    pub fn large(x: &[i16; CHUNK], least: i16) -> u64 {
        let mut bits = 0;
        for (n, part) in x.chunks_exact(16).enumerate() {
            // SAFETY: every x86-64 processor has SSE2, and `part` has sixteen numbers of two bytes.
            let found = unsafe {
                let (below, above) = (_mm_set1_epi16(1 - least), _mm_set1_epi16(least - 1));
                let [a, b] = [0, 8].map(|first| _mm_loadu_si128(part.as_ptr().add(first).cast()));
                let far = |v: __m128i| _mm_or_si128(_mm_cmpgt_epi16(v, above), _mm_cmpgt_epi16(below, v));
                _mm_movemask_epi8(_mm_packs_epi16(far(a), far(b))) as u32
            };
            bits |= u64::from(found) << (16 * n);
        }
        bits
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "intrinsics of a feature that was looked for")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::CHUNK;

    #[target_feature(enable = "avx2")]
    pub fn found_and_squares(x: &[i16; CHUNK], least: i16) -> (u64, i32) {
        let (below, above) = (_mm256_set1_epi16(1 - least), _mm256_set1_epi16(least - 1));
        let (mut bits, mut squares) = (0, _mm256_setzero_si256());
        for (n, part) in x.chunks_exact(32).enumerate() {
            // SAFETY: `part` has 32 numbers of two bytes.
            let (a, b) = unsafe { (_mm256_loadu_si256(part.as_ptr().cast()), _mm256_loadu_si256(part.as_ptr().add(16).cast())) };
            squares = _mm256_add_epi32(squares, _mm256_add_epi32(_mm256_madd_epi16(a, a), _mm256_madd_epi16(b, b)));
            let far_a = _mm256_or_si256(_mm256_cmpgt_epi16(a, above), _mm256_cmpgt_epi16(below, a));
            let far_b = _mm256_or_si256(_mm256_cmpgt_epi16(b, above), _mm256_cmpgt_epi16(below, b));
            // packed in each half of the register by itself: eight of a, eight of b
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(far_a, far_b));
            bits |= u64::from(_mm256_movemask_epi8(packed) as u32) << (32 * n);
        }
        let four = _mm_add_epi32(_mm256_castsi256_si128(squares), _mm256_extracti128_si256::<1>(squares));
        let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
        (bits, _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_large_latents() {
        let mut state = 7u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as u16 as i16 >> (state & 15)
        };
        for least in [1, 2, 3, 60, 4096, 32_766, 32_767] {
            for len in [CHUNK, CHUNK, 63, 17, 0] {
                let mut x: Vec<i16> = (0..len).map(|_| random()).collect();
                for (v, edge) in x.iter_mut().zip([i16::MIN, i16::MAX, -i16::MAX, 0, least, -least, least - 1, 1 - least]) {
                    *v = edge;
                }
                let wanted = portable(&x, least);
                assert_eq!(large(&x, least), wanted);
                let squares = |x: &[i16]| x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
                assert_eq!(large_and_squares(&x, least), (wanted, squares(&x)));
                let small: Vec<i16> = x.iter().map(|v| (*v).clamp(1 - SMALL, SMALL - 1)).collect();
                assert_eq!(large_and_squares(&small, least), (portable(&small, least), squares(&small)));
                assert!(x.iter().enumerate().all(|(i, v)| (wanted >> i & 1 == 1) == (i32::from(*v).abs() >= i32::from(least))));
            }
        }
    }
}
