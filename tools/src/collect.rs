// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fitting of tables: the bits of every context, by segment, and the start that would have cost least.

use elastictok::internals::entropy::{BitCoder, COST_ONE_BIT, Context, ContextInit, HISTORIES, bit_cost};

/// Bits of one context, by segment.
#[derive(Debug, Default, Clone)]
struct ContextBits {
    bits: Vec<bool>,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    /// Where it ends in the context's bits.
    end: usize,
    /// How much its cost counts.
    weight: f32,
    /// Segments of the same run go on where the one before stopped.
    run: u32,
}

/// Keeps every bit, by context and segment.
#[derive(Debug)]
pub struct Collector {
    contexts: Vec<ContextBits>,
    bypassed: u64,
    runs: u32,
}

impl Collector {
    /// A collector for `contexts` contexts.
    pub fn new(contexts: usize) -> Self {
        Self { contexts: vec![ContextBits::default(); contexts], bypassed: 0, runs: 0 }
    }

    /// Begins a run of segments, and returns its number.
    pub fn begin_run(&mut self) -> u32 {
        self.runs += 1;
        self.runs
    }

    /// Ends a segment whose costs count `weight` times. Its contexts start as the segment before of the same `run` left them,
    /// or else from the tables.
    pub fn end_segment(&mut self, weight: f32, run: u32) {
        for context_bits in &mut self.contexts {
            let end = context_bits.bits.len();
            if context_bits.segments.last().map_or(0, |s| s.end) < end {
                context_bits.segments.push(Segment { end, weight, run });
            }
        }
    }

    /// Bits coded without a model so far.
    pub fn bypassed(&self) -> u64 {
        self.bypassed
    }

    /// Unweighted bits spent in `context` had it begun every segment as `init`.
    pub fn bits(&self, context: usize, init: ContextInit) -> f64 {
        let context_bits = &self.contexts[context];
        let even: Vec<_> = context_bits.segments.iter().map(|s| Segment { weight: 1.0, ..*s }).collect();
        cost(&context_bits.bits, &even, init)
    }
}

impl BitCoder for Collector {
    const DECODES: bool = false;

    fn bit(&mut self, context: usize, bit: bool) -> bool {
        self.contexts[context].bits.push(bit);
        bit
    }

    fn bypass(&mut self, value: u32, bits: u32) -> u32 {
        self.bypassed += u64::from(bits);
        value
    }

    fn uniform(&mut self, value: u32, total: u32) -> u32 {
        self.bypassed += f64::from(total).log2().round() as u64;
        value
    }
}

/// Weighted bits of a context that starts as `init`.
fn cost(bits: &[bool], segments: &[Segment], init: ContextInit) -> f64 {
    let history = |index: u8| HISTORIES[usize::from(index)];
    let fresh = Context::new(init.zero, history(init.confidence), history(init.limit));
    let (mut at, mut total, mut context, mut last) = (0, 0.0, fresh, 0);
    for &Segment { end, weight, run } in segments {
        if run != last {
            context = fresh;
        }
        last = run;
        let mut sum = 0;
        for &bit in &bits[at..end] {
            sum += u64::from(bit_cost(context.zero(), bit));
            context.update(bit);
        }
        at = end;
        total += sum as f64 * f64::from(weight);
    }
    total / f64::from(COST_ONE_BIT)
}

/// The start of `context` that would have cost least. A context that was hardly used stays close to `fallback`.
pub fn fit(collector: &Collector, context: usize, fallback: ContextInit) -> ContextInit {
    /// Enough bits; more would only take time.
    const MAX_BITS: usize = 300_000;
    let context_bits = &collector.contexts[context];
    if context_bits.segments.is_empty() {
        return fallback;
    }
    let stride = context_bits.bits.len().div_ceil(MAX_BITS);
    let (mut bits, mut segments, mut at) = (Vec::new(), Vec::<Segment>::new(), 0);
    let runs = context_bits.segments.chunk_by(|a, b| a.run == b.run);
    for (i, run) in runs.enumerate() {
        for segment in run {
            if i % stride == 0 {
                bits.extend_from_slice(&context_bits.bits[at..segment.end]);
                segments.push(Segment { end: bits.len(), ..*segment });
            }
            at = segment.end;
        }
    }
    // long runs adapt by themselves, so the first bits of each run matter most
    let (mut zeros, mut total, mut at) = (0.0, 0.0, 0);
    let prior_weight = 0.4 * segments.iter().map(|s| f64::from(s.weight)).sum::<f64>() / segments.len() as f64;
    for run in segments.chunk_by(|a, b| a.run == b.run) {
        let end = run[run.len() - 1].end;
        let n = end - at;
        let w = f64::from(run[0].weight) / (1.0 + n as f64 / 60.0);
        zeros += w * bits[at..end].iter().filter(|b| !**b).count() as f64;
        total += w * n as f64;
        at = end;
    }
    let prior = f64::from(fallback.zero) / 65536.0;
    let mean = (zeros + prior_weight * prior) / (total + prior_weight);
    let logit = |p: f64| (p / (1.0 - p)).ln();
    let probability = |odds: f64| ((65536.0 / (1.0 + (-odds).exp())).round() as i64).clamp(4, 65532) as u16;
    let mut best = ContextInit { zero: probability(logit(mean.clamp(1e-4, 1.0 - 1e-4))), confidence: 8, limit: 16 };
    let mut least = cost(&bits, &segments, best);
    let mut consider = |candidate: ContextInit, best: &mut ContextInit| {
        let c = cost(&bits, &segments, candidate);
        if c < least {
            (least, *best) = (c, candidate);
        }
    };
    for _ in 0..2 {
        for index in 0..HISTORIES.len() as u8 {
            consider(ContextInit { confidence: index, ..best }, &mut best);
        }
        for index in 6..HISTORIES.len() as u8 {
            consider(ContextInit { limit: index, ..best }, &mut best);
        }
        let middle = logit(f64::from(best.zero) / 65536.0);
        for shift in [-0.6, -0.3, -0.15, 0.15, 0.3, 0.6] {
            consider(ContextInit { zero: probability(middle + shift), ..best }, &mut best);
        }
    }
    if best.confidence > best.limit {
        best.confidence = best.limit;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fit_beats_the_flat_start() {
        let mut collector = Collector::new(2);
        let mut seed = 7u32;
        for _ in 0..300 {
            for _ in 0..20 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                collector.bit(1, (seed >> 16) < 3277);
            }
            let run = collector.begin_run();
            collector.end_segment(1.0, run);
        }
        let flat = ContextInit::default();
        let fitted = fit(&collector, 1, flat);
        assert!(f64::from(fitted.zero) / 65536.0 > 0.9);
        assert!(collector.bits(1, fitted) < 0.8 * collector.bits(1, flat));
        assert!(collector.bits(1, fitted) < 1.08 * 6000.0 * 0.286);
        assert_eq!(fit(&collector, 0, flat), flat);
    }
}
