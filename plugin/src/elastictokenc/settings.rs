// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoder's properties.

use elastictok::codec::{LiveSettings, RateControl, SearchMethod};
use gst::glib;
use gst::prelude::*;

use crate::common::ModelSettings;

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
    pub tokens: u32,
    pub min_tokens: u32,
    pub max_tokens: u32,
    /// `None`: not set, so the model decides.
    pub search: Option<Search>,
    pub key_int_max: u32,
    pub layers: u32,
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
            tokens: 0,
            min_tokens: 0,
            max_tokens: 0,
            search: None,
            key_int_max: DEFAULT_KEY_INT_MAX,
            layers: 0,
            drift_free: false,
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
                .blurb("Quality to hold instead of target-psnr with FSQ and VAE models: mean squared error of samples on the -1 to 1 scale, as ElasticTok's threshold (0 = target-psnr)")
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
                .blurb("Maximum number of layers of a block, of which all but the first can be thinned out (0 = as many as the model has)")
                .maximum(32)
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("drift-free")
                .nick("Drift Free")
                .blurb(
                    "Give every layer its own reference, so that receivers of thinned streams do not drift; \
                     costs a run of the model for each layer but one, and some bits",
                )
                .mutable_ready()
                .build(),
            glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                .nick("Statistics")
                .blurb("Measurements since the stream began: blocks, tokens, bytes of each layer, candidates evaluated, times in ms, PSNR of the last block where it was decoded, search and provider in use, and the least bitrate in kbit/s where bitrate is below it")
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
            "bitrate" => self.bitrate = value.get().expect("type checked upstream"),
            "tokens" => self.tokens = value.get().expect("type checked upstream"),
            "min-tokens" => self.min_tokens = value.get().expect("type checked upstream"),
            "max-tokens" => self.max_tokens = value.get().expect("type checked upstream"),
            "search" => self.search = Some(value.get().expect("type checked upstream")),
            "key-int-max" => self.key_int_max = value.get().expect("type checked upstream"),
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
            "bitrate" => self.bitrate.to_value(),
            "tokens" => self.tokens.to_value(),
            "min-tokens" => self.min_tokens.to_value(),
            "max-tokens" => self.max_tokens.to_value(),
            "search" => self.search.unwrap_or_default().to_value(),
            "key-int-max" => self.key_int_max.to_value(),
            "layers" => self.layers.to_value(),
            "drift-free" => self.drift_free.to_value(),
            other => return self.model.get(other),
        })
    }
}
