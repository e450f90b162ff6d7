// SPDX-License-Identifier: MIT OR Apache-2.0
//! The error type, with a variant for each thing that the caller can do about it.

/// What went wrong. The variant says what can be done; messages name the cause and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream breaks its own rules; skip to the next key block.
    #[error("damaged stream: {0}")]
    Malformed(String),
    /// The stream or request is valid but not something this build can do.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// A size or count is beyond the limits this decoder accepts.
    #[error("limit reached: {0}")]
    Limit(String),
    /// The block depends on blocks that did not come; wait for a key block.
    #[error("context lost: {0}")]
    ContextLost(String),
    /// A bundle is missing, broken, or the wrong one.
    #[error("model: {0}")]
    Model(String),
    /// ONNX Runtime or an execution provider is missing or failed.
    #[error("ONNX Runtime: {0}")]
    Runtime(String),
    /// A setting is out of range or contradicts another.
    #[error("setting: {0}")]
    Settings(String),
    /// [`Canceller::cancel`](crate::runtime::Canceller::cancel) ended it. Call `resume` there to continue with a key block.
    #[error("cancelled")]
    Cancelled,
}

/// Result with the core's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
