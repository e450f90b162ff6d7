// SPDX-License-Identifier: MIT OR Apache-2.0
//! ONNX Runtime: finding its library, choosing a provider, running a bundle's graphs.

mod available;
mod cancel;
mod config;
mod contract;
pub(crate) mod graph;
mod library;
mod memory;
mod places;
mod provider;
mod session;

use crate::Result;
pub use cancel::Canceller;
pub use config::{ExecutionProvider, RuntimeConfig};
pub(crate) use graph::{DecoderGraph, EncoderGraph, PictureOutput, Tokens, TokensMut};
pub use library::set_search_directory;
pub(crate) use provider::OpenedSession;

/// Checks what can be known without a graph: that ONNX Runtime is there, and in it the provider asked for by name. Cheap once the
/// library is loaded.
pub(crate) fn check(config: &RuntimeConfig) -> Result<()> {
    provider::check(config)
}
