// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoder's measurements as its `stats` property has them.

use std::time::Duration;

use elastictok::codec::{EncoderStats, SearchMethod};

use crate::common::bitrates;

/// Name of the structure.
const NAME: &str = "application/x-elastictok-stats";

/// What is known after a block. It is kept apart from the encoder, which is locked while it codes.
#[derive(Debug)]
pub struct Snapshot {
    pub stats: EncoderStats,
    pub search: SearchMethod,
    /// Bits of a token, for models with tokens of fixed width; they have no quantiser.
    pub token_bits: Option<f64>,
    pub provider: &'static str,
}

/// The nicks of the property `search`.
fn name(search: SearchMethod) -> &'static str {
    match search {
        SearchMethod::Full => "full",
        SearchMethod::Binary => "binary",
        SearchMethod::Regression => "regression",
    }
}

/// Empty without a stream.
pub fn structure(snapshot: Option<&Snapshot>) -> gst::Structure {
    let Some(Snapshot { stats: s, search, token_bits, provider }) = snapshot else {
        return gst::Structure::new_empty(NAME);
    };
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let mut stats = gst::Structure::builder(NAME)
        .field("blocks", s.blocks)
        .field("key-blocks", s.key_blocks)
        .field("frames", s.frames)
        .field("tokens", s.tokens)
        .field("bytes", s.bytes)
        .field("layer-bytes", gst::Array::new(s.layer_bytes.iter().copied()))
        .field("block-layers", s.block_layers)
        .field("left-out-layers", s.left_out_layers)
        .field("layer-bitrates", bitrates(&s.layer_bitrates))
        .field("encode-ms", ms(s.time))
        .field("runtime-ms", ms(s.runtime_time))
        .field("motion-ms", ms(s.motion_time))
        .field("token-ms", ms(s.token_time))
        .field("evaluations", s.evaluations)
        .field("search", name(*search))
        .field("provider", *provider);
    if s.shed_blocks > 0 || s.shed_layers > 0 {
        stats = stats.field("shed-layers", s.shed_layers).field("shed-blocks", s.shed_blocks);
    }
    if let Some(psnr) = s.psnr {
        stats = stats.field("psnr", psnr);
    }
    if let Some(mean) = s.mean_psnr {
        stats = stats.field("mean-psnr", mean);
    }
    if let Some(least) = s.least_bitrate {
        stats = stats.field("least-bitrate", least.ceil() as u32);
    }
    if s.above_target {
        stats = stats.field("above-target", true);
    }
    stats = match token_bits {
        Some(bits) => stats.field("token-bits", *bits),
        None => stats.field("quantiser", u32::from(s.quantiser)),
    };
    stats.build()
}

#[cfg(test)]
mod tests {
    use gst::prelude::*;
    use gst::subclass::prelude::*;

    use crate::common::lock;
    use crate::elastictokenc::ElasticTokEnc;
    use crate::testing::{stats_meanwhile, two_blocks};

    #[test]
    fn reading_stats_does_not_wait_for_the_encoder() {
        let pipeline = two_blocks();
        let element = pipeline.by_name("enc").expect("the encoder");
        let encoder = element.downcast_ref::<ElasticTokEnc>().expect("its type").imp();
        {
            // As while a block is coded.
            let _coding = lock(&encoder.state);
            let stats = stats_meanwhile(&element);
            assert_eq!((stats.get::<u64>("blocks"), stats.get::<u64>("frames")), (Ok(2), Ok(4)));
            assert_eq!(stats.get::<&str>("provider"), Ok("cpu"));
        }
        pipeline.set_state(gst::State::Null).expect("stopped");
        assert_eq!(element.property::<gst::Structure>("stats").n_fields(), 0, "nothing is left of a stream that ended");
    }
}
