// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks of a nested bundle, coded in a closed loop around the decoder graph.
//!
//! A block goes straight through [`BlockCoder::code`]: analyse, transform, choose, code. What is then decoded, for the next block to be
//! predicted from, is waited for when that comes.

mod analyse;
mod choose;
mod coding_loop;
mod crew;
mod decoding;
mod ladder;
mod loops;
mod masking;
mod sample;
mod steps;
mod without;

use self::coding_loop::CodingLoop;
use self::decoding::Decoded;
use self::ladder::Ladder;
use self::loops::Loops;
pub(super) use self::steps::NestedBlocks;
use self::steps::check;
use super::super::LiveSettings;
use super::coder::{BlockCoder, BlockView, CodedBlock, Layers, Place, Settled, Spent, sent_layers};
use crate::Result;
use crate::bitstream::segment_bytes;
use crate::rate::RateController;

impl BlockCoder for NestedBlocks {
    fn frames_mut(&mut self) -> &mut [u8] {
        &mut self.frames
    }

    fn has_quantiser(&self) -> bool {
        true
    }

    fn set_live(&mut self, live: LiveSettings) -> Result<()> {
        check(&live)?;
        self.rate.set_live(live);
        self.ladder.set_live(&live);
        Ok(())
    }

    fn restart(&mut self, live: LiveSettings) -> Result<()> {
        check(&live)?;
        self.rate = RateController::new(live);
        self.ladder = Ladder::new(self.layers, self.fixed_ratio, &live);
        self.first = true;
        self.shed = 0;
        self.spent = Spent::default();
        Ok(())
    }

    fn least_bitrate(&self) -> Option<f64> {
        self.rate.least_bitrate()
    }

    fn above_target(&self) -> bool {
        self.rate.above_target()
    }

    fn code(&mut self, place: Place) -> Result<CodedBlock> {
        let analysis = self.analyse(place)?;
        self.transform(&analysis)?;
        let choice = self.choose(&analysis)?;
        self.transform_base(&analysis, &choice)?;
        self.code_tokens(&analysis, &choice)?;
        Ok(CodedBlock {
            key: analysis.key,
            left_out: (self.layers.layers - choice.steps.depth()) as u8,
            quantiser: choice.quantiser,
            base_quantiser: self.layers.named_base(&choice.steps),
            estimated_psnr: Some(choice.estimated_psnr),
            evaluations: choice.evaluations,
            shed: choice.coded < choice.steps.depth(),
            ..CodedBlock::default()
        })
    }

    fn layers(&self) -> Layers {
        if !self.drift_free {
            return Layers::default();
        }
        Layers { coded: self.coded, sheddable: self.group_depth - 1 }
    }

    fn shed(&mut self, layers: usize) {
        self.shed = layers;
    }

    fn segments(&self) -> &[Vec<u8>] {
        &self.segments
    }

    fn counts(&self) -> &[i32] {
        &self.counts
    }

    fn learn(&mut self, block: &CodedBlock, bits: f64) {
        self.to_learn = Some((*block, bits));
    }

    fn is_settled(&self) -> bool {
        !self.decoding.is_busy()
    }

    fn settle(&mut self) -> Result<Option<Settled>> {
        let (to_learn, decoded) = (self.to_learn.take(), self.decoding.finish()?);
        let Some(Decoded { psnr, at, runtime }) = decoded else { return Ok(None) };
        self.spent.runtime_time += runtime;
        if let Some((block, bits)) = to_learn {
            self.learn_of(&block, bits, psnr);
        }
        Ok(Some(Settled { psnr, at }))
    }

    fn spent(&self) -> Spent {
        self.spent
    }

    fn provider(&self) -> &'static str {
        self.provider
    }

    fn reconstruction(&mut self, layers: usize) -> Result<Option<&[u8]>> {
        if !self.drift_free && layers < self.group_depth {
            return Ok(None);
        }
        let part = self.part(self.coded);
        Ok(self.decoding.loops()?.of(part).map(CodingLoop::reconstruction).take(layers).last())
    }

    fn view(&mut self) -> Result<Option<BlockView<'_>>> {
        if self.coded < self.group_depth {
            return Ok(None);
        }
        let (part, (key, steps)) = (self.part(self.coded), self.last);
        let loops: &Loops = self.decoding.loops()?;
        // Without a reference all loops have the same ones.
        let latents = loops.of(part).map(|one| if key { &loops.finest } else { one }.latents());
        Ok(Some(BlockView { key, steps, motion: self.analyser.motion(), latents: latents.collect::<Result<_>>()? }))
    }
}

impl NestedBlocks {
    /// Lets rate control learn of a block that took `bits` with its header and was decoded with a luma PSNR of `measured`.
    fn learn_of(&mut self, block: &CodedBlock, bits: f64, measured: f64) {
        let upper = self.segments.iter().skip(1).take(sent_layers(&self.segments).saturating_sub(1));
        let upper = 8.0 * upper.map(|s| segment_bytes(s.len())).sum::<usize>() as f64;
        self.ladder.learn(block.key, self.last.1, (bits - upper, bits), self.coded == self.group_depth);
        let shed = self.group_depth - self.coded;
        let (factor, _) = self.without.all_layers(shed);
        self.without.learn(&self.prefixes, shed);
        if let Some(estimated) = block.estimated_psnr {
            let measured = self.without.measured(estimated, measured, shed);
            self.rate.learn(block.key, block.quantiser, bits * factor, estimated, measured);
        }
    }
}
