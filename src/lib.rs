// SPDX-License-Identifier: MIT OR Apache-2.0
//! Core of the ElasticTok streaming video codec: no GStreamer in it.
//!
//! `docs/architecture.md` describes the parts, `docs/bitstream.md` the stream.

pub mod bitstream;
pub mod error;
pub mod timing;

pub use error::{Error, Result};
