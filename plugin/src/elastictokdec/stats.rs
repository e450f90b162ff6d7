// SPDX-License-Identifier: MIT OR Apache-2.0
//! The decoder's measurements as its `stats` property has them.

use std::time::Duration;

use elastictok::codec::Decoder;

/// Empty without a decoder.
pub(super) fn structure(decoder: Option<&Decoder>) -> gst::Structure {
    let mut stats = gst::Structure::builder("application/x-elastictok-stats");
    if let Some(decoder) = decoder {
        let s = decoder.stats();
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        stats = stats
            .field("blocks", s.blocks)
            .field("key-blocks", s.key_blocks)
            .field("frames", s.frames)
            .field("bytes", s.bytes)
            .field("layers", s.layers)
            .field("damaged", s.damaged)
            .field("refused", s.refused)
            .field("decode-ms", ms(s.time))
            .field("runtime-ms", ms(s.runtime_time))
            .field("provider", decoder.provider());
    }
    stats.build()
}
