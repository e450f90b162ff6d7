// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the program ends: exit codes, and errors that carry one.

use std::io;

/// What the process ends with; `etok --help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Input = 3,
    Missing = 4,
    Output = 5,
    Damaged = 6,
    Interrupted = 130,
    /// As the shell reports a program that SIGPIPE ended.
    BrokenPipe = 141,
}

/// An error with its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub exit: Exit,
    message: String,
}

/// An error with this exit code.
pub fn with(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure { exit, message: message.into() })
}

/// The command line asks for something that cannot be.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    with(Exit::Usage, message)
}

/// The input cannot be read, or is not what it must be.
pub fn input(message: impl Into<String>) -> anyhow::Error {
    with(Exit::Input, message)
}

/// An element, a library or a model is not installed.
pub fn missing(message: impl Into<String>) -> anyhow::Error {
    with(Exit::Missing, message)
}

/// The output cannot be written.
pub fn output(message: impl Into<String>) -> anyhow::Error {
    with(Exit::Output, message)
}

/// An error of writing to `what`; a reader that went away ends the program without a word.
pub fn writing(what: &str, error: &io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return with(Exit::BrokenPipe, "the reader of the output went away");
    }
    output(format!("cannot write {what}: {error}"))
}

/// The exit code of an error that reached `main`.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.exit;
    }
    use elastictok::Error::{ContextLost, Limit, Malformed, Model, Runtime, Settings, Unsupported};
    match error.downcast_ref::<elastictok::Error>() {
        Some(Malformed(_) | Unsupported(_) | Limit(_) | ContextLost(_)) => Exit::Input,
        Some(Model(_) | Runtime(_)) => Exit::Missing,
        Some(Settings(_)) => Exit::Usage,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn codes_survive_context() {
        let error = Err::<(), _>(missing("no x264enc")).context("cannot write out.mp4").expect_err("an error");
        assert_eq!(exit_of(&error), Exit::Missing);
        assert_eq!(exit_of(&anyhow::Error::from(elastictok::Error::Malformed("x".into()))), Exit::Input);
        assert_eq!(exit_of(&anyhow::anyhow!("other")), Exit::Failed);
        assert_eq!(exit_of(&writing("x", &io::Error::from(io::ErrorKind::BrokenPipe))), Exit::BrokenPipe);
    }
}
