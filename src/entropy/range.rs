// SPDX-License-Identifier: MIT OR Apache-2.0
//! The range coder: 32-bit range, bytes out, carries resolved in the output buffer.

use super::model::PROBABILITY_BITS;
use super::{BitCoder, Context};

/// Trailing zero bytes of a segment are not sent, a decoder reads zeros beyond its end; but never more than this many, so
/// that a decoder that is further beyond the end knows that the data is damaged.
pub const MAX_ZERO_TAIL: usize = 48;

const TOP: u32 = 1 << 24;

/// Writes a segment at the end of a byte vector.
#[derive(Debug)]
pub struct RangeEncoder<'a> {
    contexts: &'a mut [Context],
    out: &'a mut Vec<u8>,
    start: usize,
    /// Below 2^32 between calls; the carry goes into `out` at once.
    low: u64,
    range: u32,
}

impl<'a> RangeEncoder<'a> {
    /// An encoder that appends to `out` and adapts `contexts`.
    pub fn new(contexts: &'a mut [Context], out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        Self { contexts, out, start, low: 0, range: u32::MAX }
    }

    #[inline]
    fn settle(&mut self) {
        if self.low > u64::from(u32::MAX) {
            self.carry();
        }
        while self.range < TOP {
            self.out.push((self.low >> 24) as u8);
            self.low = (self.low & 0x00ff_ffff) << 8;
            self.range <<= 8;
        }
    }

    #[cold]
    fn carry(&mut self) {
        self.low &= u64::from(u32::MAX);
        // low + range never exceeds the interval the segment began with, so a byte below 0xff precedes
        for byte in self.out[self.start..].iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
    }

    /// Ends the segment with as few bytes as tell the final interval.
    pub fn finish(mut self) {
        let high = self.low + u64::from(self.range) - 1;
        // the value in [low, high] with most trailing zeros
        let mut keep = 0;
        while keep < 32 {
            let mask = u64::from(u32::MAX) >> keep;
            let value = (self.low + mask) & !mask;
            if value <= high {
                self.low = value;
                break;
            }
            keep += 1;
        }
        if self.low > u64::from(u32::MAX) {
            self.carry();
        }
        self.out.extend_from_slice(&(self.low as u32).to_be_bytes());
        let mut zeros = 0;
        while self.out.len() > self.start && self.out.last() == Some(&0) && zeros < MAX_ZERO_TAIL {
            self.out.pop();
            zeros += 1;
        }
    }
}

impl BitCoder for RangeEncoder<'_> {
    const DECODES: bool = false;

    #[inline]
    fn bit(&mut self, context: usize, bit: bool) -> bool {
        let model = &mut self.contexts[context];
        let bound = ((u64::from(self.range) * u64::from(model.zero())) >> PROBABILITY_BITS) as u32;
        model.update(bit);
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        self.settle();
        bit
    }

    #[inline]
    fn bypass(&mut self, value: u32, bits: u32) -> u32 {
        debug_assert!(bits <= 16 && value >> bits == 0);
        self.range >>= bits;
        self.low += u64::from(self.range) * u64::from(value);
        self.settle();
        value
    }

    fn uniform(&mut self, value: u32, total: u32) -> u32 {
        debug_assert!(total <= 1 << 16 && value < total);
        self.range /= total;
        self.low += u64::from(self.range) * u64::from(value);
        self.settle();
        value
    }
}

/// Reads a segment. It never fails and never reads outside: beyond its end a segment continues with zeros.
#[derive(Debug)]
pub struct RangeDecoder<'a> {
    contexts: &'a mut [Context],
    data: &'a [u8],
    at: usize,
    code: u32,
    range: u32,
}

impl<'a> RangeDecoder<'a> {
    /// A decoder of `data` that adapts `contexts`.
    pub fn new(contexts: &'a mut [Context], data: &'a [u8]) -> Self {
        let mut this = Self { contexts, data, at: 0, code: 0, range: u32::MAX };
        for _ in 0..4 {
            this.code = this.code << 8 | this.next();
        }
        this
    }

    #[inline]
    fn next(&mut self) -> u32 {
        let byte = self.data.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        u32::from(byte)
    }

    #[inline]
    fn settle(&mut self) {
        while self.range < TOP {
            self.code = self.code << 8 | self.next();
            self.range <<= 8;
        }
    }

    /// Whether all of the data was used: false after a well-formed segment means that there are too many bytes.
    pub fn consumed(&self) -> bool {
        self.at >= self.data.len()
    }
}

impl BitCoder for RangeDecoder<'_> {
    const DECODES: bool = true;

    #[inline]
    fn bit(&mut self, context: usize, _: bool) -> bool {
        let model = &mut self.contexts[context];
        let bound = ((u64::from(self.range) * u64::from(model.zero())) >> PROBABILITY_BITS) as u32;
        let bit = self.code >= bound;
        model.update(bit);
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        self.settle();
        bit
    }

    #[inline]
    fn bypass(&mut self, _: u32, bits: u32) -> u32 {
        self.range >>= bits;
        // damaged data can point beyond the last of the equal parts
        let value = (self.code / self.range).min((1 << bits) - 1);
        self.code -= value * self.range;
        self.settle();
        value
    }

    fn uniform(&mut self, _: u32, total: u32) -> u32 {
        self.range /= total;
        let value = (self.code / self.range).min(total - 1);
        self.code -= value * self.range;
        self.settle();
        value
    }

    fn exhausted(&self) -> bool {
        self.at > self.data.len() + MAX_ZERO_TAIL + 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Codes (context, bit) or, with context 4.., raw values of context - 4 bits.
    fn encode(symbols: &[(usize, u32)], init: &[Context; 4]) -> Vec<u8> {
        let (mut contexts, mut out) = (*init, vec![0xff]);
        let mut coder = RangeEncoder::new(&mut contexts, &mut out);
        for &(context, value) in symbols {
            if context < 4 {
                coder.bit(context, value & 1 == 1);
            } else {
                coder.bypass(value & ((1 << (context - 4)) - 1), context as u32 - 4);
            }
        }
        coder.finish();
        assert_eq!(out.remove(0), 0xff, "a carry left the segment");
        out
    }

    fn check(symbols: &[(usize, u32)], init: &[Context; 4], data: &[u8]) {
        let mut contexts = *init;
        let mut coder = RangeDecoder::new(&mut contexts, data);
        for &(context, value) in symbols {
            if context < 4 {
                assert_eq!(coder.bit(context, false), value & 1 == 1);
            } else {
                assert_eq!(coder.bypass(0, context as u32 - 4), value & ((1 << (context - 4)) - 1));
            }
        }
        assert!(!coder.exhausted() && coder.consumed());
    }

    fn start() -> [Context; 4] {
        [Context::new(32768, 4, 200), Context::new(65535, 200, 1023), Context::new(0, 200, 1023), Context::new(60000, 0, 20)]
    }

    proptest! {
        #[test]
        fn round_trip(symbols in prop::collection::vec((0usize..21, any::<u32>()), 0..3000)) {
            check(&symbols, &start(), &encode(&symbols, &start()));
        }

        #[test]
        fn any_bytes_decode(data in prop::collection::vec(any::<u8>(), 0..64), kinds in prop::collection::vec(0usize..21, 0..4000)) {
            let mut contexts = start();
            let mut coder = RangeDecoder::new(&mut contexts, &data);
            for kind in kinds {
                if kind < 4 { coder.bit(kind, false); } else { prop_assert!(coder.bypass(0, kind as u32 - 4) >> (kind - 4) == 0); }
            }
        }
    }

    #[test]
    fn sure_bits_cost_nothing_and_surprises_are_bounded() {
        let sure = vec![(1, 0); 2000];
        assert!(encode(&sure, &start()).is_empty());
        check(&sure, &start(), &[]);
        let mut tail = vec![(4 + 16, 0xffff); 3];
        tail.extend(vec![(4 + 16, 0); 200]);
        let data = encode(&tail, &start());
        assert!(data.len() >= 6 + 400 - MAX_ZERO_TAIL - 4, "a long zero tail is sent: {}", data.len());
        check(&tail, &start(), &data);
    }

    #[test]
    fn length_is_near_the_information() {
        let mut seed = 1u32;
        let symbols: Vec<_> = (0..100_000)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (0, u32::from(seed >> 16 < 6554))
            })
            .collect();
        let bits = 8.0 * encode(&symbols, &[Context::new(32768, 0, 1023); 4]).len() as f64;
        let ideal = 100_000.0 * 0.469;
        assert!((bits / ideal - 1.0).abs() < 0.01, "{bits} against {ideal}");
    }

    #[test]
    fn exhaustion_is_noticed() {
        let mut contexts = start();
        let mut coder = RangeDecoder::new(&mut contexts, &[1, 2, 3]);
        for _ in 0..40 {
            coder.bypass(0, 16);
        }
        assert!(coder.exhausted());
    }
}
