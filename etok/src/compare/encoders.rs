// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoders that are compared, as GStreamer elements.

use crate::cli::ModelArgs;
use crate::pipeline;

/// Frames between key frames of every encoder.
const KEY_INTERVAL: u32 = 240;

/// An encoder at several qualities.
pub struct Encoder {
    pub name: &'static str,
    /// Elements that encode, with `{q}` where the quality goes.
    encode: &'static str,
    /// Elements that decode.
    decode: &'static str,
    /// From coarse to fine.
    pub qualities: &'static [u32],
    /// Elements that must be installed.
    needs: &'static [&'static str],
}

pub const ELASTICTOK: Encoder = Encoder {
    name: "ElasticTok",
    encode: "elastictokenc name=model target-psnr={q} key-int-max={k}",
    decode: "elastictokparse ! elastictokdec name=model",
    qualities: &[28, 31, 34, 38, 42],
    needs: &[],
};

const CRF: &[u32] = &[41, 37, 33, 29, 25, 21];

pub const OTHERS: [Encoder; 4] = [
    Encoder {
        name: "x264 veryfast zerolatency",
        encode: "x264enc pass=qual quantizer={q} speed-preset=veryfast tune=zerolatency key-int-max={k} byte-stream=true",
        decode: "h264parse ! avdec_h264",
        qualities: CRF,
        needs: &["x264enc", "h264parse", "avdec_h264"],
    },
    Encoder {
        name: "x264 medium",
        encode: "x264enc pass=qual quantizer={q} speed-preset=medium b-adapt=true bframes=3 key-int-max={k} byte-stream=true",
        decode: "h264parse ! avdec_h264",
        qualities: CRF,
        needs: &["x264enc", "h264parse", "avdec_h264"],
    },
    Encoder {
        name: "x265 medium",
        encode: "x265enc option-string=crf={q}:log-level=error speed-preset=medium key-int-max={k}",
        decode: "h265parse ! avdec_h265",
        qualities: CRF,
        needs: &["x265enc", "h265parse", "avdec_h265"],
    },
    Encoder {
        name: "AV1 (libaom, cpu-used 6)",
        encode: "av1enc cpu-used=6 end-usage=q min-quantizer={q} max-quantizer={q} row-mt=true keyframe-max-dist={k}",
        decode: "av1parse ! av1dec",
        qualities: &[58, 52, 44, 36, 28, 20],
        needs: &["av1enc", "av1parse", "av1dec"],
    },
];

impl Encoder {
    /// The first element that is not installed, if any is not.
    pub fn missing(&self) -> Option<&'static str> {
        self.needs.iter().copied().find(|e| !pipeline::has(e))
    }

    /// The encoding part of the pipeline, as gst-launch takes it.
    pub fn command(&self, quality: &str) -> String {
        let text = self.encode.replace("{q}", quality).replace("{k}", &KEY_INTERVAL.to_string());
        text.replace(" name=model", "")
    }

    /// Encoder and decoder at a quality.
    pub fn elements(&self, quality: u32, model: &ModelArgs) -> anyhow::Result<[gst::Element; 2]> {
        let encode = self.encode.replace("{q}", &quality.to_string()).replace("{k}", &KEY_INTERVAL.to_string());
        Ok([named_model(&encode, model)?, named_model(self.decode, model)?])
    }
}

/// A part of a pipeline, in which the element called "model" runs the model.
fn named_model(description: &str, model: &ModelArgs) -> anyhow::Result<gst::Element> {
    use gst::prelude::*;
    let bin = pipeline::bin(description)?;
    if let Some(element) = bin.downcast_ref::<gst::Bin>().and_then(|b| b.by_name("model")) {
        pipeline::set_model(&element, model);
    }
    Ok(bin)
}
