// SPDX-License-Identifier: MIT OR Apache-2.0
//! `etok`: encode, play, decode, thin, segment, inspect, report on and compare ElasticTok video.

mod cli;
mod compare;
mod decode;
mod encode;
mod failure;
mod info;
mod input;
mod manual;
mod media;
mod output;
mod page;
mod picture;
mod pipeline;
mod play;
mod progress;
mod report;
mod scan;
mod segment;
mod source;
mod stream;
mod text;
mod thin;
mod y4m;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};
use failure::Exit;

fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Encode(args) => encode::run(&args),
        Command::Play(args) => play::run(&args),
        Command::Decode(args) => decode::run(&args),
        Command::Thin(args) => thin::run(&args),
        Command::Segment(args) => segment::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Man { folder } => manual::pages(folder.as_deref()),
        Command::Completions { shell } => manual::completions(shell),
    }
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("etok: this is a fault of etok itself, please report it: {info}");
    }));
    let cli = Cli::parse();
    let exit = match std::panic::catch_unwind(|| run(cli.command)) {
        Ok(Ok(exit)) => exit,
        Ok(Err(error)) => {
            let exit = failure::exit_of(&error);
            if exit != Exit::BrokenPipe {
                eprintln!("etok: {error:#}");
            }
            exit
        }
        Err(_) => Exit::Failed,
    };
    ExitCode::from(exit as u8)
}
