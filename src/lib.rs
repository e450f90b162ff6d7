// SPDX-License-Identifier: MIT OR Apache-2.0
//! Core of the ElasticTok streaming video codec. It does not depend on GStreamer.
//!
//! [`codec`] turns frames into blocks and back, with the networks of a [`bundle`]; [`bitstream`] reads and writes streams
//! without them. `docs/architecture.md` describes the parts, `docs/bundle.md` the models, `docs/bitstream.md` the stream.

pub mod bitstream;
pub mod bundle;
pub mod codec;
mod entropy;
mod error;
pub mod frame;
#[doc(hidden)]
pub mod internals;
pub mod logging;
mod motion;
mod pair;
mod rate;
pub mod runtime;
mod search;
mod tokens;

pub use error::{Error, Result};
