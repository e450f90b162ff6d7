// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rates of layers over the last second of a stream.

use std::collections::VecDeque;

use crate::bitstream::MAX_LAYERS;

/// Time that the rates are a mean over, and its grain, in seconds.
const WINDOW: f64 = 1.0;
const GRAIN: f64 = 1.0 / 16.0;

/// Part of the window.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    seconds: f64,
    bytes: [u64; MAX_LAYERS],
}

/// What each layer took in the last second of blocks, or in the last block where that lasts longer.
#[derive(Debug, Default)]
pub(super) struct LayerRates {
    slots: VecDeque<Slot>,
}

impl LayerRates {
    /// Takes a block that lasts `seconds`, with the bytes of each of its layers. One whose duration is not known does not count.
    pub fn push(&mut self, seconds: f64, layers: impl IntoIterator<Item = usize>) {
        if !(seconds > 0.0 && seconds.is_finite()) {
            return;
        }
        if self.slots.back().is_none_or(|slot| slot.seconds >= GRAIN) {
            self.slots.push_back(Slot::default());
        }
        if let Some(slot) = self.slots.back_mut() {
            slot.seconds += seconds;
            slot.bytes.iter_mut().zip(layers).for_each(|(sum, bytes)| *sum += bytes as u64);
        }
        while self.slots.front().is_some_and(|oldest| self.seconds() - oldest.seconds >= WINDOW) {
            self.slots.pop_front();
        }
    }

    fn seconds(&self) -> f64 {
        self.slots.iter().map(|slot| slot.seconds).sum()
    }

    /// Makes `rates` the bit/s of each layer; it has as many as there are to be.
    pub fn read(&self, rates: &mut [f64]) {
        let seconds = self.seconds();
        for (layer, rate) in rates.iter_mut().enumerate() {
            let bytes = self.slots.iter().filter_map(|slot| slot.bytes.get(layer)).sum::<u64>();
            *rate = if seconds > 0.0 { bytes as f64 * 8.0 / seconds } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rates: &LayerRates) -> [f64; 3] {
        let mut all = [0.0; 3];
        rates.read(&mut all);
        all
    }

    fn close(a: [f64; 3], b: [f64; 3]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6)
    }

    #[test]
    fn rates_are_those_of_the_last_second() {
        let mut rates = LayerRates::default();
        assert_eq!(read(&rates), [0.0; 3]);
        rates.push(0.125, [1000, 50]);
        assert!(close(read(&rates), [64e3, 3200.0, 0.0]), "{:?}", read(&rates));
        for _ in 0..100 {
            rates.push(0.125, [125, 250, 375]);
        }
        assert!(close(read(&rates), [8e3, 16e3, 24e3]), "the first block is long past: {:?}", read(&rates));
        rates.push(5.0, [625]);
        assert!(close(read(&rates), [1e3, 0.0, 0.0]), "a block longer than the window stands alone: {:?}", read(&rates));
    }

    #[test]
    fn blocks_without_a_duration_do_not_count_and_short_ones_take_no_memory() {
        let mut rates = LayerRates::default();
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            rates.push(seconds, [100]);
        }
        assert_eq!(read(&rates), [0.0; 3]);
        for _ in 0..100_000 {
            rates.push(1e-9, [1; 2 * MAX_LAYERS]);
        }
        assert_eq!(rates.slots.len(), 1);
        for _ in 0..10_000 {
            rates.push(1e-3, [1]);
        }
        assert!(rates.slots.len() <= 17, "{}", rates.slots.len());
    }
}
