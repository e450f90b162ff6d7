// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks of a nested bundle, coded in a closed loop around the decoder graph.
//!
//! A block goes straight through [`BlockCoder::code`]: analyse, transform, choose, code, reconstruct, commit.

mod analyse;
mod choose;
mod coding_loop;
mod steps;

use self::coding_loop::CodingLoop;
pub(super) use self::steps::NestedBlocks;
use self::steps::check;
use super::super::LiveSettings;
use super::coder::{BlockCoder, BlockView, CodedBlock, Place, Spent};
use crate::Result;
use crate::rate::RateController;

impl BlockCoder for NestedBlocks {
    fn frames_mut(&mut self) -> &mut [u8] {
        self.finest.frames_mut()
    }

    fn set_live(&mut self, live: LiveSettings) -> Result<()> {
        check(&live)?;
        self.rate.set_live(live);
        Ok(())
    }

    fn restart(&mut self, live: LiveSettings) -> Result<()> {
        check(&live)?;
        self.rate = RateController::new(live);
        self.first = true;
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
        let before = self.run_time();
        let analysis = self.analyse(place);
        self.transform(&analysis)?;
        let choice = self.choose(&analysis)?;
        self.transform_base(&analysis, &choice)?;
        self.code_tokens(&analysis, &choice)?;
        let psnr = self.reconstruct(&analysis, &choice)?;
        self.commit(&analysis, &choice)?;
        self.spent.runtime_time += self.run_time() - before;
        Ok(CodedBlock {
            key: analysis.key,
            left_out: (self.layers.layers - choice.steps.depth()) as u8,
            quantiser: choice.quantiser,
            base_quantiser: None,
            estimated_psnr: Some(choice.estimated_psnr),
            psnr: Some(psnr),
            evaluations: choice.evaluations,
        })
    }

    fn segments(&self) -> &[Vec<u8>] {
        &self.segments
    }

    fn counts(&self) -> &[i32] {
        self.finest.counts()
    }

    fn learn(&mut self, block: &CodedBlock, bits: f64) {
        if let (Some(estimated), Some(measured)) = (block.estimated_psnr, block.psnr) {
            self.rate.learn(block.key, block.quantiser, bits, estimated, measured);
        }
    }

    fn spent(&self) -> Spent {
        self.spent
    }

    fn provider(&self) -> &'static str {
        self.finest.provider()
    }

    fn reconstruction(&self, layers: usize) -> Option<&[u8]> {
        let loops = self.base.iter().take(self.loops() - 1).chain([&self.finest]);
        if self.drift_free {
            loops.map(CodingLoop::reconstruction).take(layers).last()
        } else {
            Some(self.finest.reconstruction())
        }
    }

    fn view(&self) -> Option<BlockView<'_>> {
        let loops = self.base.iter().take(self.loops() - 1).chain([&self.finest]);
        let latents = loops.map(|l| l.latents().ok()).collect::<Option<Vec<_>>>()?;
        let (key, steps) = self.last;
        Some(BlockView { key, steps, motion: self.analyser.motion(), latents })
    }
}
