// SPDX-License-Identifier: MIT OR Apache-2.0
//! ONNX Runtime: finding its library, choosing a provider, running a bundle's graphs.

mod available;
mod bands;
mod cancel;
mod config;
mod contract;
pub(crate) mod decoder_graph;
pub(crate) mod encoder_graph;
pub(crate) mod graph;
mod library;
mod memory;
mod places;
mod provider;
mod session;

use crate::Result;
pub use cancel::Canceller;
pub use config::{ExecutionProvider, RuntimeConfig};
pub(crate) use decoder_graph::DecoderGraph;
pub(crate) use encoder_graph::EncoderGraph;
pub(crate) use graph::{PictureOutput, Tokens, TokensMut};
pub use library::set_search_directory;
pub(crate) use provider::OpenedSession;

/// Checks what can be known without a graph: that ONNX Runtime is there, and in it the provider asked for by name. Cheap once the
/// library is loaded.
pub(crate) fn check(config: &RuntimeConfig) -> Result<()> {
    provider::check(config)
}
