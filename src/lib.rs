// SPDX-License-Identifier: MIT OR Apache-2.0
//! Core of the ElasticTok streaming video codec. It does not depend on GStreamer.
//!
//! `docs/architecture.md` describes the parts, `docs/bundle.md` the models, `docs/bitstream.md` the stream.

pub mod bitstream;
pub mod bundle;
pub mod codec;
pub mod entropy;
pub mod error;
pub mod frame;
pub mod index;
pub mod logging;
pub mod motion;
pub mod rate;
pub mod runtime;
pub mod search;
pub mod timing;
pub mod tokens;
pub mod track;

pub use error::{Error, Result};
