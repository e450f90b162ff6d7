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
                assert!(x.iter().enumerate().all(|(i, v)| (wanted >> i & 1 == 1) == (i32::from(*v).abs() >= i32::from(least))));
            }
        }
    }
}
