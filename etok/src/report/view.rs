// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page of a report.

use std::fmt::Write as _;

use elastictok::bundle::fingerprint_name;

use super::{Moment, Report, heat, series};
use crate::info::cumulative_kbps;
use crate::page::chart::{Band, Chart, Line, Y};
use crate::page::{Page, escape, legend, table};
use crate::picture::{Picture, png_uri, shrink};
use crate::text;

/// Pictures are shrunk to this width, in pixels.
const PICTURE_WIDTH: usize = 640;
/// Key blocks that are marked at the most: more would be a solid line.
const MOST_FEET: usize = 200;

/// The letter of moment `i`.
fn letter(i: usize) -> String {
    char::from(b'A' + (i % 26) as u8).to_string()
}

/// The class of the colour of layer `n`, from 1.
fn class(n: usize) -> String {
    format!("l{}", (n - 1) % 8 + 1)
}

fn layers_name(n: usize, all: usize) -> String {
    match n {
        _ if n == all && all == 1 => "decoded".into(),
        _ if n == all => format!("all {n} layers"),
        1 => "first layer only".into(),
        n => format!("first {n} layers"),
    }
}

pub fn page(r: &Report) -> anyhow::Result<String> {
    let h = &r.stream.header;
    let name = text::file_name(&r.file);
    let original = r.original.as_deref().map(text::file_name);
    let against = match (&original, r.scaled_from) {
        (Some(o), Some((w, hh))) => format!(" Compared with {o}, scaled from {w}x{hh}."),
        (Some(o), None) => format!(" Compared with {o}."),
        (None, _) => String::new(),
    };
    let lead = format!(
        "{}x{}, {}, model {} ({}).{against}",
        h.width,
        h.height,
        text::framerate(h.framerate),
        r.model.manifest.name,
        fingerprint_name(&h.fingerprint)
    );
    let mut page = Page::new(&name, &lead);
    page.facts(&facts(r));
    let starts = &r.times.starts;
    let marks: Vec<_> = r.moments.iter().enumerate().map(|(i, m)| (starts[m.block], letter(i))).collect();
    // one block has no course of time
    if starts.len() > 1 {
        tokens(&mut page, r, &marks);
    }
    bits(&mut page, r, &marks);
    if !r.quality.is_empty() {
        quality(&mut page, r, &marks);
    }
    heat_map(&mut page, r)?;
    moments(&mut page, r)?;
    damage(&mut page, r);
    Ok(page.finish(&format!("Made by etok {}.", env!("CARGO_PKG_VERSION"))))
}

fn facts(r: &Report) -> Vec<(String, &'static str)> {
    let s = &r.stream;
    let mut facts = vec![
        (text::duration(s.duration()), "length"),
        (text::grouped(s.frames()), "frames"),
        (format!("{} kB", text::significant(s.file_bytes as f64 / 1000.0)), "size"),
    ];
    facts.extend(s.kbps().map(|k| (text::bitrate(k), "bitrate")));
    if let Some(q) = r.quality.last().filter(|q| !q.points.is_empty()) {
        facts.push((format!("{:.2} dB", mean(&q.points)), "luma PSNR"));
    }
    facts.extend(s.tokens().map(|(_, mean, _)| (text::grouped(mean.round() as u64), "tokens per block")));
    facts
}

fn mean(points: &[(f64, f64)]) -> f64 {
    points.iter().map(|p| p.1).sum::<f64>() / points.len().max(1) as f64
}

/// A line through condensed points, with the band between the least and the most where points were taken together.
fn condensed(points: &[(f64, f64)], class: &str, longest: f64) -> (Line, Option<Band>) {
    let few = series::condense(points);
    let dots = few.len() <= 2 || (few.len() <= 12 && longest < 2.0);
    let line = Line { class: class.into(), points: few.iter().map(|p| (p.0, p.1)).collect(), dots };
    let grouped = few.len() < points.len();
    let band = grouped.then(|| Band { class: format!("{class} faint"), edges: few.iter().map(|p| (p.0, p.2, p.3)).collect() });
    (line, band)
}

fn tokens(page: &mut Page, r: &Report, marks: &[(f64, String)]) {
    let (starts, longest) = (&r.times.starts, r.times.longest);
    let points: Vec<_> = starts.iter().zip(&r.stream.blocks).filter_map(|(t, b)| Some((*t, b.tokens? as f64))).collect();
    let keys: Vec<f64> = starts.iter().zip(&r.stream.blocks).filter(|(_, b)| b.key).map(|(t, _)| *t).collect();
    let most = points.iter().map(|p| p.1).fold(0.0, f64::max);
    let mut sorted: Vec<f64> = points.iter().map(|p| p.1).collect();
    sorted.sort_by(f64::total_cmp);
    // a key block would press the others flat
    let steep = sorted.get(sorted.len() / 2).is_some_and(|median| most > 30.0 * median.max(1.0));
    let title = match (steep, sorted.first()) {
        (false, _) => "tokens in a block",
        (true, Some(0.0)) => "tokens in a block, logarithmic (none is drawn as 1)",
        (true, _) => "tokens in a block, logarithmic",
    };
    let mut chart = Chart::over_time("Tokens of each block over time", longest, title);
    chart.y = if steep { Y::Log } else { Y::Zero };
    let block = longest / points.len().max(1) as f64;
    let window = (longest / 40.0).max(block * 8.0);
    let (line, band) = condensed(&points, "l1", longest);
    let many = points.len() >= 24;
    let mut entries = Vec::new();
    if many {
        let smooth: Vec<_> = series::condense(&series::smooth(&points, window)).iter().map(|p| (p.0, p.1)).collect();
        chart.bands.extend(band);
        if chart.bands.is_empty() {
            chart.lines.push(Line { class: "l1 pale".into(), ..line });
        }
        chart.lines.push(Line { class: "l1 strong".into(), points: smooth, dots: false });
        entries.push(("l1".to_string(), format!("mean over {} s; pale: single blocks", text::significant(window))));
    } else {
        chart.lines.push(line);
        entries.push(("l1".to_string(), "tokens in a block".to_string()));
    }
    chart.marks = marks.to_vec();
    let feet = keys.len() <= MOST_FEET;
    chart.feet = if feet { keys.clone() } else { Vec::new() };
    if feet && !keys.is_empty() {
        entries.push(("key".into(), "key block".into()));
    }
    let caption = format!(
        "Every block of {} keeps as many tokens as its content needs: few where little is new, many at cuts and in motion. Key blocks depend on nothing before them and cost more. \
         The letters mark the moments shown below.",
        text::count(r.stream.header.block_length.into(), "frame")
    );
    page.section("Tokens follow the content", &caption, &format!("{}{}", legend(&entries), chart.svg()));
}

fn bits(page: &mut Page, r: &Report, marks: &[(f64, String)]) {
    let (starts, longest) = (&r.times.starts, r.times.longest);
    let (edges, step) = series::stacked(&r.stream, &r.times);
    let mut chart = Chart::over_time("Bits of each layer over time", longest, "kbit/s");
    chart.bands = edges.into_iter().enumerate().map(|(i, edges)| Band { class: class(i + 1), edges }).collect();
    chart.marks = marks.to_vec();
    let bytes = r.stream.layer_bytes();
    let all = bytes.iter().sum::<u64>().max(1) as f64;
    let shares =
        bytes.iter().enumerate().map(|(i, b)| (class(i + 1), format!("layer {}: {:.0} %", i + 1, *b as f64 / all * 100.0)));
    let caption = match bytes.len() {
        1 => "The stream has one layer, so nothing can be cut off it. Streams of a higher quality have more.".to_string(),
        n => format!(
            "Each block is coded in up to {n} layers. A sender or server lowers the bitrate by cutting upper layers off; what is left decodes to a coarser picture."
        ),
    };
    let shown = if starts.len() > 1 {
        format!("{}{}", legend(&shares.collect::<Vec<_>>()), chart.svg())
    } else {
        let row =
            |(i, b): (usize, &u64)| vec![format!("layer {}", i + 1), format!("{} kbit", text::significant(*b as f64 * 8e-3))];
        table(&[String::new(), "size".into()], &bytes.iter().enumerate().map(row).collect::<Vec<_>>())
    };
    let step = if starts.len() > 1 { format!(" Sums over {} s.", text::significant(step)) } else { String::new() };
    page.section("Where the bits go", &format!("{caption}{step}"), &shown);
}

fn quality(page: &mut Page, r: &Report, marks: &[(f64, String)]) {
    let longest = r.times.longest;
    let all = r.stream.layers().max(1);
    let mut chart = Chart::over_time("PSNR over time by layers decoded", longest, "luma PSNR, dB");
    chart.y = Y::Near;
    for q in &r.quality {
        let (line, band) = condensed(&q.points, &class(q.layers), longest);
        chart.bands.extend(band);
        chart.lines.push(line);
    }
    chart.marks = marks.to_vec();
    let entries: Vec<_> = r.quality.iter().map(|q| (class(q.layers), layers_name(q.layers, all))).collect();
    let rates = cumulative_kbps(&r.stream);
    let rows: Vec<Vec<String>> = r
        .quality
        .iter()
        .filter(|q| !q.points.is_empty())
        .map(|q| {
            let rate = rates.as_ref().and_then(|k| k.get(q.layers - 1)).map_or("-".into(), |k| text::bitrate(*k));
            let least = q.points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
            vec![layers_name(q.layers, all), rate, format!("{:.2} dB", mean(&q.points)), format!("{least:.2} dB")]
        })
        .collect();
    let mut caption =
        "How close the decoded pictures are to the original, by the number of layers that arrive; higher is better.".to_string();
    if all > 1 {
        caption.push_str(
            " In streams encoded with --single-loop, a receiver of fewer layers predicts from coarser pictures than the sender did, so its error may grow until the next key block.",
        );
    }
    if r.unmatched > 0 {
        let _ = write!(caption, " The original has no picture for {} of the stream.", text::count(r.unmatched, "frame"));
    }
    let head = ["", "bitrate", "mean PSNR", "lowest"].map(String::from);
    let plot = if r.times.starts.len() > 1 { format!("{}{}", legend(&entries), chart.svg()) } else { String::new() };
    page.section("Quality", &caption, &format!("{plot}{}", table(&head, &rows)));
}

/// A picture as an image, shrunk where it is large.
fn image(picture: &Picture, full_range: bool, class: &str, alt: &str) -> anyhow::Result<String> {
    let (rgb, w, h) = shrink(picture.rgb(full_range), picture.width, picture.height, PICTURE_WIDTH);
    Ok(format!(
        "<img class=\"{class}\" alt=\"{}\" width=\"{w}\" height=\"{h}\" src=\"{}\">",
        escape(alt),
        png_uri(&rgb, w, h, 3)?
    ))
}

fn figure(inside: &str, name: &str, detail: &str) -> String {
    let detail = if detail.is_empty() { String::new() } else { format!(" {}", escape(detail)) };
    format!("<figure><div class=\"frame\">{inside}</div><figcaption><b>{}</b>{detail}</figcaption></figure>", escape(name))
}

fn full_range(r: &Report) -> bool {
    r.stream.header.colorimetry[0] == 1
}

/// The scale under a heat map that ends at `top` tokens.
fn scale(top: f64) -> String {
    format!(
        "<div class=\"scale\">0 <i style=\"background:{}\"></i> {} or more tokens in a cell, on a square-root scale</div>",
        heat::gradient(),
        text::grouped(top.round() as u64)
    )
}

fn heat_map(page: &mut Page, r: &Report) -> anyhow::Result<()> {
    let Some(moment) = r.moments.get(r.moments.len() / 2) else { return Ok(()) };
    let Some((picture, _)) = moment.decoded.last() else { return Ok(()) };
    let top = heat::top([r.mean_tokens.as_slice()]);
    let inside = format!(
        "{}{}",
        image(picture, full_range(r), "grey", "the picture in grey")?,
        heat::overlay(&r.mean_tokens, top, &r.geometry)?
    );
    let cell = r.model.manifest.cell;
    let caption = format!(
        "The picture is divided into {} of {}x{} pixels, each with tokens of its own. The colour is the mean number of tokens that a cell keeps, over the whole stream.",
        text::count(r.geometry.cells() as u64, "cell"),
        cell[0],
        cell[1]
    );
    let figure = figure(&inside, "mean over the stream", &format!("on the picture at moment {}", letter(r.moments.len() / 2)));
    page.section("Tokens over the picture", &caption, &format!("<div class=\"alone\">{figure}{}</div>", scale(top)));
    Ok(())
}

fn moments(page: &mut Page, r: &Report) -> anyhow::Result<()> {
    let top = heat::top(r.moments.iter().map(|m| m.tokens.as_slice()));
    let mut html = String::new();
    for (i, moment) in r.moments.iter().enumerate() {
        html.push_str(&one_moment(r, moment, i, r.times.starts[moment.block], top)?);
    }
    html.push_str(&scale(top));
    let shrunk = r.geometry.width > PICTURE_WIDTH;
    let caption = format!(
        "{}{}",
        match r.original {
            Some(_) =>
                "The original beside what is decoded from the first layer, the first two, and so on, and where the tokens of the block lie.",
            None => "What is decoded from the first layer, the first two, and so on, and where the tokens of the block lie.",
        },
        if shrunk { " Pictures are shown smaller than they are." } else { "" }
    );
    page.section("Moments", &caption, &html);
    Ok(())
}

fn one_moment(r: &Report, moment: &Moment, i: usize, time: f64, top: f64) -> anyhow::Result<String> {
    let all = r.stream.layers().max(1);
    let block = &r.stream.blocks[moment.block];
    let full = full_range(r);
    let mut html = format!(
        "<h3><b>{}</b>at {}<small>{}{}</small></h3>\n<div class=\"pictures\">\n",
        letter(i),
        text::duration(time),
        block.tokens.map_or(String::new(), |t| format!(
            "{} in {}",
            text::count(t, "token"),
            text::count(block.layers.len() as u64, "layer")
        )),
        if block.key { ", key block" } else { "" }
    );
    if let Some(original) = &moment.original {
        html.push_str(&figure(&image(original, full, "", "the original picture")?, "original", ""));
    }
    for (n, (picture, psnr)) in r.layers.iter().zip(&moment.decoded) {
        let kbit = block.layers.iter().take(*n).sum::<u64>() as f64 * 8e-3;
        let detail = match psnr {
            Some(p) => format!("{} kbit, {p:.2} dB", text::significant(kbit)),
            None => format!("{} kbit", text::significant(kbit)),
        };
        let name = layers_name(*n, all);
        html.push_str(&figure(&image(picture, full, "", &format!("decoded: {name}"))?, &name, &detail));
    }
    if let Some((picture, _)) = moment.decoded.last().filter(|_| !moment.tokens.is_empty()) {
        let inside = format!(
            "{}{}",
            image(picture, full, "grey", "the picture in grey")?,
            heat::overlay(&moment.tokens, top, &r.geometry)?
        );
        html.push_str(&figure(&inside, "tokens", "of each cell"));
    }
    html.push_str("</div>\n");
    Ok(html)
}

fn damage(page: &mut Page, r: &Report) {
    let s = &r.stream;
    if s.problem_count == 0 {
        return;
    }
    let items: String = s.problems.iter().map(|p| format!("<li>block {}: {}</li>", p.block, escape(&p.what))).collect();
    let more = s.problem_count - s.problems.len() as u64;
    let more = if more > 0 { format!("<p class=\"caption\">and {more} more</p>") } else { String::new() };
    page.section(
        "Damage",
        "The parts of the stream that could not be read. Where a block is lost, the picture before it stays until the next key block.",
        &format!("<ul class=\"damage\">{items}</ul>{more}"),
    );
}
