// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoder's measurements as its `stats` property has them.

use std::time::Duration;

use elastictok::codec::{Encoder, SearchMethod};

/// Name of the structure.
pub const NAME: &str = "application/x-elastictok-stats";

/// The nicks of the property `search`.
fn name(search: SearchMethod) -> &'static str {
    match search {
        SearchMethod::Full => "full",
        SearchMethod::Binary => "binary",
        SearchMethod::Regression => "regression",
    }
}

/// `token_bits`: bits of a token, for models with tokens of fixed width; they have no quantiser.
pub fn structure(encoder: &Encoder, search: SearchMethod, token_bits: Option<f64>) -> gst::Structure {
    let s = encoder.stats();
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let mut stats = gst::Structure::builder(NAME)
        .field("blocks", s.blocks)
        .field("key-blocks", s.key_blocks)
        .field("frames", s.frames)
        .field("tokens", s.tokens)
        .field("bytes", s.bytes)
        .field("layer-bytes", gst::Array::new(s.layer_bytes.iter().copied()))
        .field("encode-ms", ms(s.time))
        .field("runtime-ms", ms(s.runtime_time))
        .field("motion-ms", ms(s.motion_time))
        .field("token-ms", ms(s.token_time))
        .field("evaluations", s.evaluations)
        .field("search", name(search))
        .field("provider", encoder.provider());
    if let Some(psnr) = s.psnr {
        stats = stats.field("psnr", psnr);
    }
    if let Some(least) = s.least_bitrate {
        stats = stats.field("least-bitrate", least.ceil() as u32);
    }
    stats = match token_bits {
        Some(bits) => stats.field("token-bits", bits),
        None => stats.field("quantiser", u32::from(s.quantiser)),
    };
    stats.build()
}
