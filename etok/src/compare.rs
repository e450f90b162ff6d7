// SPDX-License-Identifier: MIT OR Apache-2.0
//! `etok compare`: ElasticTok and other encoders on the user's own video.

mod bd;
mod encoders;
mod measure;
mod view;

use crate::cli::CompareArgs;
use crate::failure::{Exit, usage};
use crate::input::Input;
use crate::output::{self, Destination};
use crate::pipeline;
use crate::progress::Progress;
use crate::source::Shape;
use encoders::{ELASTICTOK, Encoder, OTHERS};
use measure::{Clip, Outcome};

/// A clip through one encoder.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Curve {
    pub encoder: &'static str,
    /// What was run, with q where the quality goes.
    pub command: String,
    pub points: Vec<Outcome>,
    /// Per cent of bits that ElasticTok needs more (above 0) or less at equal PSNR.
    pub elastictok_bd_rate: Option<f64>,
}

impl Curve {
    fn points(&self) -> Vec<bd::Point> {
        self.points.iter().map(|p| (p.kbps, p.psnr)).collect()
    }
}

/// A clip through all of them; ElasticTok first.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Comparison {
    pub clip: String,
    #[serde(flatten)]
    pub of: Clip,
    pub curves: Vec<Curve>,
}

/// What is not compared, and the element that is missing.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Absent {
    pub encoder: &'static str,
    pub element: &'static str,
}

#[derive(serde::Serialize)]
struct Json<'a> {
    clips: &'a [Comparison],
    not_installed: &'a [Absent],
}

pub fn run(args: &CompareArgs) -> anyhow::Result<Exit> {
    if !args.duration.is_finite() || args.duration < 0.0 {
        return Err(usage("--duration takes seconds, 0 for the whole clip"));
    }
    if let Some(odd) = args.clips.iter().find(|c| matches!(c, Input::Stdin | Input::Camera(_))) {
        return Err(usage(format!("{} cannot be read more than once; save it to a file first", odd.name())));
    }
    let paths = || args.clips.iter().filter_map(Input::path);
    let place = args.output.as_ref().map(|path| Destination::new(path, args.common.force, paths())).transpose()?;
    paths().try_for_each(crate::input::check_file)?;
    pipeline::init()?;
    pipeline::check_model(&args.model)?;
    let asked =
        |e: &&Encoder| args.only.is_empty() || args.only.iter().any(|o| e.name.to_lowercase().contains(&o.to_lowercase()));
    let (present, absent): (Vec<&Encoder>, Vec<&Encoder>) = OTHERS.iter().filter(asked).partition(|e| e.missing().is_none());
    if present.is_empty() && absent.is_empty() {
        let names: Vec<_> = OTHERS.iter().map(|e| e.name).collect();
        return Err(usage(format!("--only {} names no encoder; there are {}", args.only.join(" "), names.join(", "))));
    }
    let absent: Vec<Absent> = absent.iter().filter_map(|e| Some(Absent { encoder: e.name, element: e.missing()? })).collect();
    let mut all = Vec::new();
    for clip in &args.clips {
        all.push(compare(args, clip, &present)?);
    }
    if args.json {
        let mut json = serde_json::to_vec_pretty(&Json { clips: &all, not_installed: &absent })?;
        json.push(b'\n');
        output::print(&json)?;
    } else {
        output::print(view::tables(&all, &absent).as_bytes())?;
    }
    if let Some(place) = place {
        let mut writer = place.writer();
        writer.write(view::page(&all, &absent).as_bytes())?;
        writer.finish()?;
        if !args.common.quiet {
            eprintln!("{}: open it in a browser", place.name());
        }
    }
    Ok(Exit::Done)
}

fn compare(args: &CompareArgs, clip: &Input, others: &[&Encoder]) -> anyhow::Result<Comparison> {
    let shape = Shape { size: args.size, duration: (args.duration > 0.0).then_some(args.duration), ..Default::default() };
    let encoders: Vec<&Encoder> = std::iter::once(&ELASTICTOK).chain(others.iter().copied()).collect();
    let runs: usize = encoders.iter().map(|e| e.qualities.len()).sum();
    let progress = Progress::new(args.common.quiet, None);
    progress.set_total(Some(runs as f64));
    let (mut of, mut curves, mut done) = (Clip::default(), Vec::<Curve>::new(), 0.0);
    for encoder in encoders {
        let mut points = Vec::new();
        for &quality in encoder.qualities {
            // the length is known once the clip was read
            let share = |n: u64| if of.frames > 0 { n as f64 / of.frames as f64 } else { 0.0 };
            let (clip, outcome) = measure::run(clip, &shape, encoder, quality, &args.model, |n| {
                progress.show(done + share(n).min(1.0), &format!("{}: {}", clip.name(), encoder.name));
            })?;
            done += 1.0;
            of = clip;
            points.push(outcome);
        }
        let mut curve = Curve { encoder: encoder.name, command: encoder.command("q"), points, elastictok_bd_rate: None };
        curve.elastictok_bd_rate = curves.first().and_then(|own| bd::rate(&curve.points(), &own.points()));
        curves.push(curve);
    }
    progress.clear();
    Ok(Comparison { clip: clip.name(), of, curves })
}
