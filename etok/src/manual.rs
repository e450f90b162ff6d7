// SPDX-License-Identifier: MIT OR Apache-2.0
//! Manual pages and shell completions, made from the command line's own description.

use std::path::Path;

use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::failure::{self, Exit};
use crate::output;

/// Prints etok.1, or writes it and one page for each command into `folder`.
pub fn pages(folder: Option<&Path>) -> anyhow::Result<Exit> {
    let Some(folder) = folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        return output::print(&page).map(|()| Exit::Done);
    };
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .map_err(|e| failure::writing(&folder.display().to_string(), &e))?;
    Ok(Exit::Done)
}

/// Prints the completions of a shell.
pub fn completions(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "etok", &mut script);
    output::print(&script).map(|()| Exit::Done)
}
