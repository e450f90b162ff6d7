// SPDX-License-Identifier: MIT OR Apache-2.0
//! The decoder's measurements as its `stats` property has them.

use std::time::Duration;

use elastictok::codec::{Decoder, DecoderStats};

use crate::common::bitrates;

/// What is known after a block. It is kept apart from the decoder, which is locked while it decodes.
#[derive(Debug)]
pub(super) struct Snapshot {
    stats: DecoderStats,
    provider: &'static str,
}

impl Snapshot {
    pub fn of(decoder: &Decoder) -> Self {
        Self { stats: decoder.stats().clone(), provider: decoder.provider() }
    }
}

/// Empty without a stream.
pub(super) fn structure(snapshot: Option<&Snapshot>) -> gst::Structure {
    let mut stats = gst::Structure::builder("application/x-elastictok-stats");
    if let Some(Snapshot { stats: s, provider }) = snapshot {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        stats = stats
            .field("blocks", s.blocks)
            .field("key-blocks", s.key_blocks)
            .field("frames", s.frames)
            .field("bytes", s.bytes)
            .field("layers", s.layers)
            .field("block-layers", s.block_layers)
            .field("left-out-layers", s.left_out_layers)
            .field("layer-bitrates", bitrates(&s.layer_bitrates))
            .field("damaged", s.damaged)
            .field("refused", s.refused)
            .field("decode-ms", ms(s.time))
            .field("runtime-ms", ms(s.runtime_time))
            .field("provider", *provider);
    }
    stats.build()
}

#[cfg(test)]
mod tests {
    use gst::prelude::*;
    use gst::subclass::prelude::*;

    use crate::common::lock;
    use crate::elastictokdec::ElasticTokDec;
    use crate::testing::{stats_meanwhile, two_blocks};

    #[test]
    fn reading_stats_does_not_wait_for_the_decoder() {
        let pipeline = two_blocks();
        let element = pipeline.by_name("dec").expect("the decoder");
        let decoder = element.downcast_ref::<ElasticTokDec>().expect("its type").imp();
        {
            // As while a block is decoded.
            let _decoding = lock(&decoder.state);
            let stats = stats_meanwhile(&element);
            assert_eq!((stats.get::<u64>("blocks"), stats.get::<u64>("frames")), (Ok(2), Ok(4)));
            assert_eq!(stats.get::<&str>("provider"), Ok("cpu"));
        }
        pipeline.set_state(gst::State::Null).expect("stopped");
        assert_eq!(element.property::<gst::Structure>("stats").n_fields(), 0, "nothing is left of a stream that ended");
    }
}
