// SPDX-License-Identifier: MIT OR Apache-2.0
//! `bundle.json`; docs/bundle.md describes the fields.

use serde::{Deserialize, Serialize};

use crate::bitstream::MAX_LAYERS;
use crate::frame::PixelFormat;
use crate::{Error, Result};

/// Pixels on a side of a nested bundle's cell: the motion search and the stream's vectors have this size.
const NESTED_CELL: u32 = crate::motion::CELL as u32;

/// The newest manifest this version reads.
pub const FORMAT_VERSION: u32 = 1;

/// Place of a coefficient: (component, t, v, u).
pub type Position = [u16; 4];

/// How a cell becomes tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Bottleneck {
    /// A token is an index into the product codebook of `levels`.
    Fsq {
        /// Levels of each dimension, 2..=256; their product at most 2^24.
        levels: Vec<u32>,
    },
    /// A token is a vector of `dimensions` values, each `bits` bits of value*`scale`.
    Vae {
        /// Values of a token.
        dimensions: u32,
        /// Quantiser steps per unit.
        scale: f32,
        /// Bits of a value, 1..=16.
        bits: u32,
    },
    /// Tokens are the quantisation indices of transform coefficients, one of each in every layer.
    Nested {
        /// Latent units per unit of an orthonormal coefficient.
        scale: u32,
        /// Place of each coefficient, in the graphs' order.
        positions: Vec<Position>,
        /// The graphs' index of the most important coefficient, the next one, and so on: the order of tokens.
        order: Vec<u16>,
    },
}

impl Bottleneck {
    /// Bits that a token of fixed width takes in a stream: log2 of the number of codes (15.97 for 64000), or dimensions times
    /// bits. `None` for `nested`, whose tokens are entropy coded.
    pub fn token_bits(&self) -> Option<f64> {
        match self {
            Self::Fsq { levels } => Some((levels.iter().map(|&l| u64::from(l)).product::<u64>() as f64).log2()),
            Self::Vae { dimensions, bits, .. } => Some(f64::from(*dimensions) * f64::from(*bits)),
            Self::Nested { .. } => None,
        }
    }
}

/// How counts are searched, for `fsq` and `vae` bottlenecks; see docs/bundle.md.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "lowercase", deny_unknown_fields)]
pub enum SearchRule {
    /// Fewest tokens that meet the target.
    #[default]
    Exact,
    /// As ElasticTok's released code searches, number for number.
    Official {
        /// Share of K that is taken where nothing meets the target, above 0, 1 at most.
        #[serde(default = "whole")]
        default_prop: f64,
        /// Share of K that is searched, above 0, 1 at most.
        #[serde(default = "whole")]
        max_prop: f64,
        /// Candidates of `search=full`, 1..=10000.
        #[serde(default = "hundred")]
        n_interp: u32,
    },
}

fn whole() -> f64 {
    1.0
}

fn hundred() -> u32 {
    100
}

/// The metadata of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this description.
    pub format_version: u32,
    /// Short name.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Licence of the weights.
    #[serde(default)]
    pub licence: String,
    /// Free text: data and steps.
    #[serde(default)]
    pub training: String,
    /// Layout of frames.
    pub pixel_format: PixelFormat,
    /// T, frames in a block.
    pub block_length: u32,
    /// Frame sizes are padded to multiples of [width, height].
    pub alignment: [u32; 2],
    /// [width, height] of a cell in pixels.
    pub cell: [u32; 2],
    /// K, tokens of a cell; for `nested` those of one layer, since streams choose how many layers they have.
    pub tokens_per_cell: u32,
    /// Least count a search may give.
    #[serde(default)]
    pub min_tokens: u32,
    /// End of each layer in a cell's tokens; for `nested` of one layer.
    pub layers: Vec<u32>,
    /// How a cell becomes tokens.
    pub bottleneck: Bottleneck,
    /// The encoder graph takes `counts`.
    #[serde(default)]
    pub count_conditioned: bool,
    /// The graphs take `motion`.
    #[serde(default)]
    pub takes_motion: bool,
    /// The decoder graph takes `step`.
    #[serde(default)]
    pub takes_step: bool,
    /// The encoder graph gives `distortion`.
    #[serde(default)]
    pub has_distortion: bool,
    /// Every machine computes the same frames from the same stream; docs/bundle.md has the rules that make it so.
    #[serde(default)]
    pub exact: bool,
    /// The decoder graph takes `rows`: it decodes some rows of cells, which depend on so many above and below them.
    #[serde(default)]
    pub band_halo: Option<u32>,
    /// The decoder graph gives `reconstruction`.
    #[serde(default)]
    pub has_reconstruction: bool,
    /// Blocks until the context is full, 1 or more.
    #[serde(default)]
    pub max_context_blocks: Option<u32>,
    /// How counts are searched.
    #[serde(default)]
    pub search: SearchRule,
}

impl Manifest {
    /// Reads and checks a manifest.
    pub fn parse(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let broken = |e: serde_json::Error| Error::Model(format!("bundle.json: {e}; export the bundle again"));
        let version = serde_json::from_slice::<Version>(json).map_err(broken)?.format_version;
        if version != FORMAT_VERSION {
            return Err(Error::Model(format!(
                "bundle.json has format version {version}, this version reads {FORMAT_VERSION}; {}",
                if version > FORMAT_VERSION { "update the plugin" } else { "export the bundle again" }
            )));
        }
        let manifest: Self = serde_json::from_slice(json).map_err(broken)?;
        manifest.check().map_err(|m| Error::Model(format!("bundle.json: {m}; export the bundle again")))?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if !(1..=16).contains(&self.block_length) {
            return Err(format!("block_length {} is outside 1..=16", self.block_length));
        }
        for axis in 0..2 {
            let (a, c) = (self.alignment[axis], self.cell[axis]);
            if c == 0 || a == 0 || a % c != 0 || a > 1024 {
                return Err(format!("alignment {a} is not a multiple of the cell's {c} up to 1024"));
            }
            if self.pixel_format == PixelFormat::I420 && a % 2 != 0 {
                return Err(format!("alignment {a} is odd, I420 has half-size chroma"));
            }
        }
        let rising = self.layers.windows(2).all(|w| w[0] < w[1]) && self.layers.first().is_some_and(|&l| l > 0);
        if !rising || self.layers.last() != Some(&self.tokens_per_cell) || self.layers.len() > MAX_LAYERS {
            return Err(format!(
                "layers {:?} do not rise to tokens_per_cell {} in at most {MAX_LAYERS} steps",
                self.layers, self.tokens_per_cell
            ));
        }
        if self.tokens_per_cell > 1 << 16 || self.min_tokens > self.tokens_per_cell {
            return Err(format!(
                "tokens_per_cell {} (65536 at most) or min_tokens {} is out of range",
                self.tokens_per_cell, self.min_tokens
            ));
        }
        if self.max_context_blocks == Some(0) {
            return Err("max_context_blocks is 0; it is 1 or more, or null".into());
        }
        if self.band_halo.is_some() && !(self.exact && matches!(self.bottleneck, Bottleneck::Nested { .. })) {
            return Err("band_halo needs an exact bundle with a nested bottleneck".into());
        }
        if self.has_reconstruction && self.pixel_format != PixelFormat::Rgb {
            return Err("has_reconstruction needs pixel_format RGB".into());
        }
        self.check_search()?;
        if !matches!(self.bottleneck, Bottleneck::Nested { .. }) && (self.takes_motion || self.takes_step) {
            return Err("takes_motion and takes_step need a nested bottleneck: fsq and vae blocks have neither".into());
        }
        match &self.bottleneck {
            Bottleneck::Fsq { levels } => {
                let product = levels.iter().try_fold(1u32, |p, &l| p.checked_mul(l));
                if levels.is_empty() || levels.iter().any(|l| !(2..=256).contains(l)) || product.is_none_or(|p| p > 1 << 24) {
                    return Err(format!("fsq levels {levels:?} are not 2..=256 each with a product of 2^24 at most"));
                }
            }
            Bottleneck::Vae { dimensions, scale, bits } => {
                if !(1..=1024).contains(dimensions) || !(1..=16).contains(bits) || !scale.is_finite() || *scale <= 0.0 {
                    return Err("vae dimensions, bits or scale is out of range".into());
                }
            }
            Bottleneck::Nested { scale, positions, order } => {
                if self.pixel_format != PixelFormat::I420 || !self.takes_motion || !self.takes_step {
                    return Err("a nested bottleneck needs I420, takes_motion and takes_step".into());
                }
                if self.cell != [NESTED_CELL; 2] {
                    return Err(format!(
                        "a nested bottleneck has cells of {NESTED_CELL}x{NESTED_CELL} pixels, not {}x{}: motion has no other size",
                        self.cell[0], self.cell[1]
                    ));
                }
                if !(1..=64).contains(scale) {
                    return Err(format!("nested scale {scale} is out of range"));
                }
                let c = positions.len() as u32;
                if c == 0 || c > 4096 || self.layers != [c] {
                    return Err(format!("layers {:?} are not [{c}], the coefficients of a nested bundle", self.layers));
                }
                let mut sorted = order.clone();
                sorted.sort_unstable();
                if !sorted.iter().map(|&i| u32::from(i)).eq(0..c) {
                    return Err("order is not a permutation of the coefficients".into());
                }
                let mut seen = std::collections::HashSet::new();
                let [width, height] = self.cell;
                let inside = |[c, t, v, u]: [u16; 4]| {
                    c < 3 && u32::from(t) < self.block_length && u32::from(v) < height && u32::from(u) < width
                };
                if !positions.iter().all(|p| inside(*p) && seen.insert(p)) {
                    return Err("positions repeat or name a component, frame or frequency that does not exist".into());
                }
            }
        }
        Ok(())
    }

    fn check_search(&self) -> Result<(), String> {
        let SearchRule::Official { default_prop, max_prop, n_interp } = self.search else { return Ok(()) };
        let share = |p: f64| p > 0.0 && p <= 1.0;
        if !share(default_prop) || !share(max_prop) || !(1..=10_000).contains(&n_interp) {
            return Err(format!(
                "search: default_prop {default_prop} or max_prop {max_prop} is not in (0, 1], or n_interp {n_interp} not in 1..=10000"
            ));
        }
        if self.min_tokens == 0 || matches!(self.bottleneck, Bottleneck::Nested { .. }) {
            return Err("search: the official rule needs an fsq or vae bottleneck and min_tokens of 1 or more".into());
        }
        Ok(())
    }

    /// K, tokens of a cell in a stream of up to `layers` layers.
    pub fn stream_tokens_per_cell(&self, layers: usize) -> u32 {
        match self.bottleneck {
            Bottleneck::Nested { .. } => self.tokens_per_cell * layers as u32,
            Bottleneck::Fsq { .. } | Bottleneck::Vae { .. } => self.tokens_per_cell,
        }
    }

    /// The fields that decide how a stream decodes, in a fixed form.
    pub(super) fn decoding_fields(&self) -> String {
        let Self {
            pixel_format,
            block_length,
            alignment,
            cell,
            tokens_per_cell,
            layers,
            bottleneck,
            takes_motion,
            takes_step,
            ..
        } = self;
        serde_json::json!([
            pixel_format,
            block_length,
            alignment,
            cell,
            tokens_per_cell,
            layers,
            bottleneck,
            takes_motion,
            takes_step
        ])
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fsq() -> serde_json::Value {
        serde_json::json!({
            "format_version": 1, "name": "t", "pixel_format": "RGB", "block_length": 4, "alignment": [256, 256], "cell": [256, 256],
            "tokens_per_cell": 64, "layers": [16, 64], "bottleneck": {"kind": "fsq", "levels": [8, 8, 8, 5, 5, 5]}
        })
    }

    fn message(change: impl Fn(&mut serde_json::Value)) -> String {
        let mut json = fsq();
        change(&mut json);
        match Manifest::parse(json.to_string().as_bytes()) {
            Err(Error::Model(m)) => m,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_good_manifest_parses() {
        assert_eq!(Manifest::parse(fsq().to_string().as_bytes()).expect("valid").layers, [16, 64]);
    }

    #[test]
    fn the_search_rule_has_defaults() {
        let mut json = fsq();
        let rule = |json: &serde_json::Value| Manifest::parse(json.to_string().as_bytes()).expect("valid").search;
        assert_eq!(rule(&json), SearchRule::Exact);
        json["min_tokens"] = 4.into();
        json["search"] = serde_json::json!({"rule": "official", "max_prop": 0.5});
        assert_eq!(rule(&json), SearchRule::Official { default_prop: 1.0, max_prop: 0.5, n_interp: 100 });
    }

    #[test]
    fn each_fault_has_its_message() {
        assert!(message(|j| j["format_version"] = 2.into()).contains("update the plugin"));
        assert!(message(|j| j["colour"] = 2.into()).contains("unknown field"));
        assert!(message(|j| j["block_length"] = 0.into()).contains("block_length 0"));
        assert!(message(|j| j["alignment"] = serde_json::json!([100, 256])).contains("alignment 100"));
        assert!(message(|j| j["layers"] = serde_json::json!([16, 60])).contains("tokens_per_cell"));
        assert!(message(|j| j["has_reconstruction"] = 3.into()).contains("boolean"));
        assert!(message(|j| j["max_context_blocks"] = 0.into()).contains("max_context_blocks"));
        assert!(message(|j| j["band_halo"] = 2.into()).contains("band_halo"));
        assert!(message(|j| j["search"] = serde_json::json!({"rule": "guess"})).contains("guess"));
        assert!(message(|j| j["search"] = serde_json::json!({"rule": "official", "max_prop": 0.0})).contains("max_prop"));
        assert!(message(|j| j["search"] = serde_json::json!({"rule": "official"})).contains("min_tokens"));
        assert!(message(|j| j["layers"] = serde_json::json!([])).contains("layers"));
        assert!(message(|j| j["bottleneck"]["levels"] = serde_json::json!([1])).contains("fsq levels"));
        assert!(
            message(|j| j["bottleneck"] = serde_json::json!({"kind": "vae", "dimensions": 8, "scale": 0.0, "bits": 8}))
                .contains("vae")
        );
        assert!(
            message(|j| j["bottleneck"] = serde_json::json!({"kind": "nested", "scale": 8, "positions": [], "order": []}))
                .contains("I420")
        );
        assert!(message(|j| j["takes_motion"] = true.into()).contains("takes_motion"));
        assert!(message(|j| j["takes_step"] = true.into()).contains("takes_step"));
    }

    #[test]
    fn nested_cells_and_positions_are_as_the_codec_has_them() {
        let nested = |side: u32, position: [u16; 4]| {
            serde_json::json!({
                "format_version": 1, "name": "t", "pixel_format": "I420", "block_length": 2, "alignment": [side, side],
                "cell": [side, side], "tokens_per_cell": 1, "layers": [1], "takes_motion": true, "takes_step": true,
                "bottleneck": {"kind": "nested", "scale": 8, "positions": [position], "order": [0]}
            })
        };
        let parse = |json: serde_json::Value| Manifest::parse(json.to_string().as_bytes()).map(|_| ()).map_err(|e| e.to_string());
        assert_eq!(parse(nested(16, [0, 1, 15, 15])), Ok(()));
        for side in [2, 8, 32, 64] {
            let message = parse(nested(side, [0, 0, 0, 0])).expect_err("no such cells");
            assert!(message.contains("16x16") && message.contains(&format!("{side}x{side}")), "{message}");
        }
        for position in [[0, 0, 16, 0], [0, 0, 0, 16], [0, 2, 0, 0], [3, 0, 0, 0], [0, 0, 65535, 65535]] {
            assert!(parse(nested(16, position)).expect_err("outside").contains("frequency"), "{position:?}");
        }
    }
}
