// SPDX-License-Identifier: MIT OR Apache-2.0
//! The adaptive probability of a context: a running average whose memory grows from the table's confidence to its limit.

/// Probabilities are in units of 1 / `PROBABILITY_ONE`.
pub const PROBABILITY_ONE: u32 = 1 << PROBABILITY_BITS;
pub(super) const PROBABILITY_BITS: u32 = 26;

/// Neither bit's probability falls below about 2^-14, so an unlikely bit costs 14 bits at most.
const FLOOR: i32 = 1 << (PROBABILITY_BITS - 14);

/// Longest memory of a context, in bits coded.
pub const MAX_HISTORY: u16 = 1023;

/// `RATES[n]` = 65536 / (n + 1.5): how far the (n+1)th bit moves the average.
const RATES: [u32; MAX_HISTORY as usize + 1] = {
    let mut rates = [0; MAX_HISTORY as usize + 1];
    let mut n = 0;
    while n < rates.len() {
        rates[n] = 131_072 / (2 * n as u32 + 3);
        n += 1;
    }
    rates
};

/// Adaptive probability of a binary event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Probability of a zero bit, in (0, `PROBABILITY_ONE`).
    zero: u32,
    history: u16,
    limit: u16,
}

impl Context {
    /// `zero`: probability of a zero bit in 1/65536; `confidence`: how many bits of memory that is worth; `limit`: the longest
    /// memory (both are cut to [`MAX_HISTORY`]).
    pub fn new(zero: u16, confidence: u16, limit: u16) -> Self {
        let zero = (u32::from(zero) << (PROBABILITY_BITS - 16)).clamp(FLOOR as u32, PROBABILITY_ONE - FLOOR as u32);
        let limit = limit.min(MAX_HISTORY);
        Self { zero, history: confidence.min(limit), limit }
    }

    /// Probability of a zero bit in units of 1 / [`PROBABILITY_ONE`].
    #[inline]
    pub fn zero(self) -> u32 {
        self.zero
    }

    /// Learns one bit.
    #[inline]
    pub fn update(&mut self, bit: bool) {
        let target = if bit { FLOOR } else { PROBABILITY_ONE as i32 - FLOOR };
        let rate = RATES[usize::from(self.history & MAX_HISTORY)];
        let step = (i64::from(target - self.zero as i32) * i64::from(rate)) >> 16;
        self.zero = (self.zero as i32 + step as i32) as u32;
        self.history += u16::from(self.history < self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probability_stays_inside_and_reaches_its_floor() {
        for limit in [1, 30, MAX_HISTORY] {
            for bit in [false, true] {
                let mut c = Context::new(32768, 0, limit);
                for _ in 0..50_000 {
                    c.update(bit);
                    assert!(c.zero() >= FLOOR as u32 && c.zero() <= PROBABILITY_ONE - FLOOR as u32);
                }
                let sure = if bit { c.zero() } else { PROBABILITY_ONE - c.zero() };
                assert!(sure < 2 * FLOOR as u32, "limit {limit} stops at {sure}");
            }
        }
    }

    #[test]
    fn confidence_slows_the_first_steps() {
        let (mut shy, mut sure) = (Context::new(32768, 0, 255), Context::new(32768, 100, 255));
        shy.update(true);
        sure.update(true);
        assert!(shy.zero() < sure.zero());
    }
}
