// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoder's properties.

use elastictok::codec::{DEFAULT_LAYER_RATIO, LAYER_RATIOS, LiveSettings, RateControl, SearchMethod};
use gst::glib;
use gst::prelude::*;

use crate::common::ModelSettings;

/**
 * GstElasticTokEncRateControl:
 * @quality: hold #GstElasticTokEnc:target-psnr or, with FSQ and VAE models, #GstElasticTokEnc:target-mse where that is set
 * @bitrate: hold #GstElasticTokEnc:bitrate
 * @tokens: keep #GstElasticTokEnc:tokens tokens of every cell
 *
 * What the encoder holds constant.
 *
 * Since: 0.1.0
 */
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstElasticTokEncRateControl")]
#[repr(i32)]
pub enum Control {
    #[default]
    #[enum_value(name = "Quality: hold target-psnr", nick = "quality")]
    Quality,
    #[enum_value(name = "Bitrate: hold bitrate", nick = "bitrate")]
    Bitrate,
    #[enum_value(name = "Tokens: hold the number of tokens of every cell", nick = "tokens")]
    Tokens,
}

/**
 * GstElasticTokEncSearch:
 * @full: decode every candidate and share tokens out between cells, slow
 * @binary: bisect, decoding on the way
 * @regression: predict, without decoding
 *
 * How the encoder finds the tokens that meet its target.
 *
 * Since: 0.1.0
 */
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstElasticTokEncSearch")]
#[repr(i32)]
pub enum Search {
    #[enum_value(name = "Full: decode every candidate and share out tokens between cells, slow", nick = "full")]
    Full,
    #[enum_value(name = "Binary: bisect, decoding each candidate", nick = "binary")]
    Binary,
    #[default]
    #[enum_value(name = "Regression: predict, without decoding", nick = "regression")]
    Regression,
}

const DEFAULT_TARGET_PSNR: f64 = 36.0;
const DEFAULT_TARGET_MSE: f64 = 0.0;
const DEFAULT_BITRATE: u32 = 2048;
const DEFAULT_KEY_INT_MAX: u32 = 240;

#[derive(Debug, Clone)]
pub struct Settings {
    pub model: ModelSettings,
    pub rate_control: Control,
    pub target_psnr: f64,
    pub target_mse: f64,
    pub bitrate: u32,
    pub base_bitrate: u32,
    pub tokens: u32,
    pub min_tokens: u32,
    pub max_tokens: u32,
    /// `None`: not set, so the model decides.
    pub search: Option<Search>,
    pub key_int_max: u32,
    pub layers: u32,
    pub layer_ratio: f64,
    pub drift_free: bool,
    /// A live property changed since the streaming thread last looked.
    pub changed: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: ModelSettings::default(),
            rate_control: Control::default(),
            target_psnr: DEFAULT_TARGET_PSNR,
            target_mse: DEFAULT_TARGET_MSE,
            bitrate: DEFAULT_BITRATE,
            base_bitrate: 0,
            tokens: 0,
            min_tokens: 0,
            max_tokens: 0,
            search: None,
            key_int_max: DEFAULT_KEY_INT_MAX,
            layers: 0,
            layer_ratio: DEFAULT_LAYER_RATIO,
            drift_free: true,
            changed: false,
        }
    }
}

impl Settings {
    pub fn live(&self) -> LiveSettings {
        LiveSettings {
            rate_control: match self.rate_control {
                Control::Quality => RateControl::Quality,
                Control::Bitrate => RateControl::Bitrate,
                Control::Tokens => RateControl::Tokens,
            },
            target_psnr: self.target_psnr,
            target_mse: self.target_mse,
            bitrate: self.bitrate,
            base_bitrate: self.base_bitrate,
            tokens: self.tokens,
            min_tokens: self.min_tokens,
            max_tokens: self.max_tokens,
        }
    }

    /// The search method for a model whose best one is `best`.
    pub fn search_method(&self, best: SearchMethod) -> SearchMethod {
        match self.search {
            None => best,
            Some(Search::Full) => SearchMethod::Full,
            Some(Search::Binary) => SearchMethod::Binary,
            Some(Search::Regression) => SearchMethod::Regression,
        }
    }

    /**
     * GstElasticTokEnc:bitrate:
     *
     * The bitrate that `rate-control=bitrate` holds, in kbit/s. It goes by time stamps, whatever the framerate in the caps. Where
     * it is below the least that the video takes, a warning on the bus says so, and `least-bitrate` in
     * #GstElasticTokEnc:stats has that least. It may be changed while playing, and applies to the block that is filling.
     *
     * Since: 0.1.0
     */
    /**
     * GstElasticTokEnc:base-bitrate:
     *
     * A bitrate that layer 0 holds besides, in kbit/s, with any #GstElasticTokEnc:rate-control: the coarser the quantiser of layer 0,
     * the fewer bits it takes. #GstElasticTokEnc:layer-ratio then has no say. Layer 0 is never finer than the last layer, so it takes
     * less where all layers together do, and never coarser than the coarsest quantiser, so it takes more where that does. It may be
     * changed while playing, and applies to the block that is filling; the number of layers changes with the next key block.
     *
     * Since: 0.1.0
     */
    /**
     * GstElasticTokEnc:layer-ratio:
     *
     * Ratio of the quantiser steps of neighbouring layers, 1.25 to 4. With 2, a further layer takes one to two times the bits
     * of all before it, depending on the video. With 0 it is chosen for every block, so that the rates of neighbouring rungs differ
     * by a factor of about 2.3.
     *
     * Since: 0.1.0
     */
    /**
     * GstElasticTokEnc:search:
     *
     * How the tokens that meet the target are found. Where it is not set and the model predicts no distortion, `binary` is
     * used and a message on the bus says so; `regression` that was set is an error with such a model.
     *
     * Since: 0.1.0
     */
    /**
     * GstElasticTokEnc:stats:
     *
     * Measurements since the stream began, empty without one. They are published after each block, and reading them does not
     * wait for a block to be coded.
     *
     * * `blocks`, `key-blocks`, `frames`, `tokens`, `bytes` (guint64): what was coded.
     * * `layer-bytes` (array of guint64): the bytes of each layer.
     * * `layer-bitrates` (array of guint64): the rate of each layer in bit/s over about a second of video, without block headers.
     *   What a receiver of n layers gets is the sum of the first n.
     * * `block-layers` (guint): layers in the last block. Where they are fewer than #GstElasticTokEnc:layers,
     *   `left-out-layers` (guint) is how many were left out since their quantisers would be coarser than the coarsest one (72), or too
     *   near to each other to be worth a layer: a higher quality leaves out fewer. Others are missing because of load (`shed-layers`), or
     *   at the end, because they hold nothing.
     * * `encode-ms` (gdouble): time for which the encoder was at work; `runtime-ms`, `motion-ms` and `token-ms` are the parts of it in ONNX
     *   Runtime, in the motion search, and in quantisation and entropy coding.
     * * `evaluations` (guint64): candidates that searches evaluated.
     * * `search`, `provider` (string): the search and the execution provider in use.
     * * `psnr`, `mean-psnr` (gdouble): PSNR in dB of the last block that the encoder has decoded, with several threads the one before
     *   the last until the stream ends; and its mean over frames. Not there where it decodes none.
     * * `quantiser` (guint): quantiser of the last block; with models whose tokens have a fixed width, `token-bits` (gdouble),
     *   the bits of a token, is there instead.
     * * `least-bitrate` (guint): the least bitrate of the last seconds in kbit/s, where it is above #GstElasticTokEnc:bitrate.
     * * `above-target` (gboolean): the quality is above #GstElasticTokEnc:target-psnr, since a lower one would not cost fewer
     *   bits. Absent otherwise.
     * * `shed-layers` (guint), `shed-blocks` (guint64): upper layers that are left out now since the encoder could not keep up with a
     *   live source, and blocks that lack any for that reason. Absent while there was none.
     *
     * Since: 0.1.0
     */
    pub fn properties() -> Vec<glib::ParamSpec> {
        let mut all = ModelSettings::properties();
        all.extend([
            glib::ParamSpecEnum::builder::<Control>("rate-control")
                .nick("Rate Control")
                .blurb("What is held constant")
                .mutable_ready()
                .build(),
            glib::ParamSpecDouble::builder("target-psnr")
                .nick("Target PSNR")
                .blurb("Quality to hold with rate-control=quality in dB: PSNR of luma averaged over time; with FSQ and VAE models, of all RGB samples of each block")
                .minimum(20.0)
                .maximum(60.0)
                .default_value(DEFAULT_TARGET_PSNR)
                .mutable_playing()
                .build(),
            glib::ParamSpecDouble::builder("target-mse")
                .nick("Target MSE")
                .blurb("Quality to hold instead of target-psnr with FSQ and VAE models: mean squared error of samples on the -1 to 1 scale, as the threshold of ElasticTok's released code (0 = use target-psnr)")
                .minimum(0.0)
                .maximum(4.0)
                .default_value(DEFAULT_TARGET_MSE)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("bitrate")
                .nick("Bitrate")
                .blurb("Bitrate to hold with rate-control=bitrate, in kbit/s")
                .minimum(1)
                .maximum(2_000_000)
                .default_value(DEFAULT_BITRATE)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("base-bitrate")
                .nick("Base Bitrate")
                .blurb("Bitrate that layer 0 is to hold besides, in kbit/s (0 = none); not with FSQ and VAE models")
                .maximum(2_000_000)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("tokens")
                .nick("Tokens")
                .blurb("Tokens that every cell keeps with rate-control=tokens (0 = all)")
                .maximum(65536)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("min-tokens")
                .nick("Minimum Tokens")
                .blurb("Minimum number of tokens of each cell, kept whatever they cost; a model may require more")
                .maximum(65536)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("max-tokens")
                .nick("Maximum Tokens")
                .blurb("Maximum number of tokens of each cell (0 = as many as the model has)")
                .maximum(65536)
                .mutable_playing()
                .build(),
            glib::ParamSpecEnum::builder::<Search>("search")
                .nick("Search")
                .blurb("How the tokens that meet the target are found; if not set, binary is used with models that predict no distortion")
                .default_value(Search::Regression)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("key-int-max")
                .nick("Key-frame maximal interval")
                .blurb("Maximum number of frames from one key block to the next (0 = only the first block is a key block); a model may require more key blocks")
                .default_value(DEFAULT_KEY_INT_MAX)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("layers")
                .nick("Layers")
                .blurb("Maximum number of layers of a block, of which all but the first can be thinned out (0 = 4, or with FSQ and VAE models as many as they have; otherwise 1 to 5)")
                .maximum(32)
                .mutable_ready()
                .build(),
            glib::ParamSpecDouble::builder("layer-ratio")
                .nick("Layer Ratio")
                .blurb("Ratio of the quantiser steps of neighbouring layers, 1.25 to 4 (0 = chosen for each block, so that the rates of neighbouring rungs differ by a factor of about 2.3); not with FSQ and VAE models")
                .minimum(DEFAULT_LAYER_RATIO)
                .maximum(*LAYER_RATIOS.end())
                .default_value(DEFAULT_LAYER_RATIO)
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("drift-free")
                .nick("Drift Free")
                .blurb(
                    "Give every layer its own reference, so that receivers of thinned streams do not drift; costs a run \
                     of the model for each layer but one (without it, receivers of fewer layers drift until the next key block)",
                )
                .default_value(true)
                .mutable_ready()
                .build(),
            glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                .nick("Statistics")
                .blurb("Measurements since the stream began: blocks, tokens, bytes of each layer, candidates evaluated, times in ms, PSNR of the last block where it was decoded, search and provider in use, the least bitrate in kbit/s where bitrate is below it, and layers shed where the encoder could not keep up")
                .read_only()
                .build(),
        ]);
        all
    }

    /// Sets a property of [`Settings::properties`]; `false` if it is none of them.
    pub fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        if self.model.set(name, value) {
            return true;
        }
        match name {
            "rate-control" => self.rate_control = value.get().expect("type checked upstream"),
            "target-psnr" => self.target_psnr = value.get().expect("type checked upstream"),
            "target-mse" => self.target_mse = value.get().expect("type checked upstream"),
            "base-bitrate" => self.base_bitrate = value.get().expect("type checked upstream"),
            "bitrate" => self.bitrate = value.get().expect("type checked upstream"),
            "tokens" => self.tokens = value.get().expect("type checked upstream"),
            "min-tokens" => self.min_tokens = value.get().expect("type checked upstream"),
            "max-tokens" => self.max_tokens = value.get().expect("type checked upstream"),
            "search" => self.search = Some(value.get().expect("type checked upstream")),
            "key-int-max" => self.key_int_max = value.get().expect("type checked upstream"),
            "layer-ratio" => self.layer_ratio = value.get().expect("type checked upstream"),
            "layers" => self.layers = value.get().expect("type checked upstream"),
            "drift-free" => self.drift_free = value.get().expect("type checked upstream"),
            _ => return false,
        }
        self.changed = true;
        true
    }

    pub fn get(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "rate-control" => self.rate_control.to_value(),
            "target-psnr" => self.target_psnr.to_value(),
            "target-mse" => self.target_mse.to_value(),
            "base-bitrate" => self.base_bitrate.to_value(),
            "bitrate" => self.bitrate.to_value(),
            "tokens" => self.tokens.to_value(),
            "min-tokens" => self.min_tokens.to_value(),
            "max-tokens" => self.max_tokens.to_value(),
            "search" => self.search.unwrap_or_default().to_value(),
            "key-int-max" => self.key_int_max.to_value(),
            "layer-ratio" => self.layer_ratio.to_value(),
            "layers" => self.layers.to_value(),
            "drift-free" => self.drift_free.to_value(),
            other => return self.model.get(other),
        })
    }
}
