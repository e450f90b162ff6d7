// SPDX-License-Identifier: MIT OR Apache-2.0
//! `etok report`: one page that shows where the tokens and bits of a stream go.

mod frames;
mod heat;
mod moments;
pub mod original;
mod series;
mod view;

use std::path::Path;
use std::sync::Arc;

use elastictok::bitstream::SequenceHeader;
use elastictok::bundle::Bundle;
use elastictok::frame::Geometry;

use crate::cli::ReportArgs;
use crate::failure::{Exit, input};
use crate::output::Destination;
use crate::picture::Picture;
use crate::pipeline;
use crate::progress::Progress;
use crate::scan::{Stream, scan};
use crate::source::Shape;
use original::{Matcher, Original};

/// Layers that are shown one by one; of models with more, some between the first and the last.
const SHOWN_LAYERS: usize = 6;

/// A moment with its pictures.
struct Moment {
    /// Block that it is the first picture of.
    block: usize,
    original: Option<Picture>,
    /// For each count of layers shown: picture, and PSNR in dB where the original is known.
    decoded: Vec<(Picture, Option<f64>)>,
    /// Tokens of each cell.
    tokens: Vec<f64>,
}

/// PSNR by a count of layers.
struct Quality {
    layers: usize,
    /// Seconds from the start, and dB.
    points: Vec<(f64, f64)>,
}

/// All that the page shows.
struct Report {
    file: String,
    original: Option<String>,
    /// The original's size, where it had to be scaled.
    scaled_from: Option<(u32, u32)>,
    stream: Stream,
    times: series::Times,
    model: Arc<Bundle>,
    geometry: Geometry,
    moments: Vec<Moment>,
    /// Counts of layers shown.
    layers: Vec<usize>,
    quality: Vec<Quality>,
    /// Mean tokens of each cell.
    mean_tokens: Vec<f64>,
    /// Frames of the stream that the original has no picture for.
    unmatched: u64,
}

pub fn run(args: &ReportArgs) -> anyhow::Result<Exit> {
    let inputs = [Some(args.input.as_path()), args.original.as_ref().and_then(|o| o.path())];
    let place = Destination::new(&args.output, args.common.force, inputs.into_iter().flatten())?;
    pipeline::init()?;
    let report = collect(args)?;
    let mut writer = place.writer();
    writer.write(view::page(&report)?.as_bytes())?;
    writer.finish()?;
    if !args.common.quiet {
        eprintln!("{}: open it in a browser", place.name());
        if report.unmatched > 0 {
            eprintln!(
                "etok: the original has no picture at the time of {}; is it the video that was encoded?",
                crate::text::count(report.unmatched, "frame")
            );
        }
    }
    Ok(if report.stream.problem_count > 0 { Exit::Damaged } else { Exit::Done })
}

/// Counts of layers to show of a stream of `layers`.
fn shown_layers(layers: usize) -> Vec<usize> {
    let layers = layers.max(1);
    if layers <= SHOWN_LAYERS {
        return (1..=layers).collect();
    }
    let mut all: Vec<usize> = (0..SHOWN_LAYERS).map(|i| 1 + i * (layers - 1) / (SHOWN_LAYERS - 1)).collect();
    all.dedup();
    all
}

fn collect(args: &ReportArgs) -> anyhow::Result<Report> {
    let file = args.input.display().to_string();
    if args.input == Path::new("-") {
        return Err(crate::failure::usage("a report reads its stream more than once: save it to a file first"));
    }
    let mut sums: Vec<f64> = Vec::new();
    let mut blocks = 0u32;
    let stream = scan(&args.input, &args.model.model, |_, counts| {
        let Some(counts) = counts else { return };
        sums.resize(counts.len(), 0.0);
        blocks += 1;
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += f64::from(*count);
        }
    })?;
    let Some(model) = stream.bundle.clone() else {
        return Err(crate::source::other_model(&file, &stream.header.fingerprint));
    };
    if stream.format_changes > 0 {
        return Err(input(format!("{file} changes its size, rate or model midway; a report is of one format only")));
    }
    let header = stream.header.clone();
    let geometry = model.geometry(header.width, header.height)?;
    let chosen = moments::choose(&stream.blocks, args.moments as usize);
    if chosen.is_empty() {
        return Err(input(format!("{file} has no block that can be decoded")));
    }
    let layers = shown_layers(stream.layers());
    let mut moments: Vec<Moment> =
        chosen.iter().map(|&block| Moment { block, original: None, decoded: Vec::new(), tokens: Vec::new() }).collect();
    let mut at = 0;
    scan(&args.input, &args.model.model, |_, counts| {
        if let (Ok(i), Some(counts)) = (chosen.binary_search(&at), counts) {
            moments[i].tokens = counts.iter().map(|&c| f64::from(c)).collect();
        }
        at += 1;
    })?;
    let wanted = match args.original {
        Some(_) => vec![true; stream.blocks.len()],
        None => moments::needed(&stream.blocks, &chosen),
    };
    let times = series::Times::new(&stream);
    let progress = Progress::new(args.common.quiet, None);
    let work = wanted.iter().filter(|w| **w).count() as f64;
    progress.set_total(Some(work * layers.len() as f64));
    let (mut quality, mut unmatched, mut scaled_from) = (Vec::new(), 0, None);
    for (pass, &n) in layers.iter().enumerate() {
        let mut matcher = open_original(args, &header)?;
        let mut points = Vec::new();
        let mut missed = 0;
        let (mut done, mut last) = (0.0, None);
        frames::decode(&args.input, &model, &header, &args.model, n, &wanted, |frame| {
            if last.replace(frame.block) != Some(frame.block) {
                done += 1.0;
                progress.show(work * pass as f64 + done, &format!("decoding by {}", crate::text::count(n as u64, "layer")));
            }
            let original = match &mut matcher {
                Some(matcher) => matcher.find(frame.time)?,
                None => None,
            };
            let psnr = original.map(|o| frame.picture.psnr(o));
            missed += u64::from(psnr.is_none());
            points.extend(psnr.map(|p| (times.frame(frame.block, frame.index, frame.time), p)));
            if frame.index == 0
                && let Ok(i) = chosen.binary_search(&frame.block)
            {
                moments[i].decoded.push((frame.picture.clone(), psnr));
                if moments[i].original.is_none() {
                    moments[i].original = original.cloned();
                }
            }
            Ok(())
        })?;
        if let Some(matcher) = matcher {
            let size = (header.width, header.height);
            scaled_from = matcher.own_size().filter(|own| *own != size && (own.1, own.0) != size);
            quality.push(Quality { layers: n, points });
            unmatched = missed;
        }
    }
    progress.clear();
    // a moment that could not be decoded after all has nothing to show
    moments.retain(|m| m.decoded.len() == layers.len());
    let mean_tokens = sums.into_iter().map(|s| s / f64::from(blocks.max(1))).collect();
    Ok(Report {
        file,
        original: args.original.as_ref().map(|o| o.name()),
        scaled_from,
        stream,
        times,
        model,
        geometry,
        moments,
        layers,
        quality,
        mean_tokens,
        unmatched,
    })
}

fn open_original(args: &ReportArgs, header: &SequenceHeader) -> anyhow::Result<Option<Matcher>> {
    let Some(from) = &args.original else { return Ok(None) };
    let size = Some((header.width, header.height));
    let original = Original::open(from, header.pixel_format, size, &Shape::default())?;
    Matcher::new(original, header.framerate).map(Some)
}

#[cfg(test)]
mod tests {
    use elastictok::bitstream::MAX_LAYERS;

    use super::*;

    #[test]
    fn few_layers_are_all_shown_and_many_in_part() {
        assert_eq!(shown_layers(0), [1]);
        assert_eq!(shown_layers(3), [1, 2, 3]);
        let many = shown_layers(MAX_LAYERS);
        assert_eq!((many.first(), many.last(), many.len()), (Some(&1), Some(&MAX_LAYERS), SHOWN_LAYERS));
    }
}
