// SPDX-License-Identifier: MIT OR Apache-2.0
//! Comparisons as tables for a terminal and as a page with plots.

use std::fmt::Write as _;

use super::{Absent, Comparison, Curve};
use crate::page::chart::{Chart, Line, X, Y};
use crate::page::{Page, escape, legend, table};
use crate::text;

fn what(c: &Comparison) -> String {
    format!("{}x{}, {}, {}", c.of.width, c.of.height, text::count(c.of.frames, "frame"), text::duration(c.of.seconds))
}

/// What ElasticTok needs against an encoder, in words.
fn difference(rate: Option<f64>) -> String {
    match rate {
        Some(r) if r.abs() < 0.5 => "as many bits".into(),
        Some(r) if r > 0.0 => format!("{r:.0} % more bits"),
        Some(r) => format!("{:.0} % fewer bits", -r),
        None => "no common range of quality".into(),
    }
}

/// Means over clips, for each other encoder: name, mean where every clip has a figure, and clips.
fn means(all: &[Comparison]) -> Vec<(&'static str, Option<f64>)> {
    let Some(first) = all.first() else { return Vec::new() };
    let mean = |i: usize| {
        let rates: Option<Vec<f64>> = all.iter().map(|c| c.curves.get(i)?.elastictok_bd_rate).collect();
        rates.map(|r| r.iter().sum::<f64>() / r.len().max(1) as f64)
    };
    first.curves.iter().enumerate().skip(1).map(|(i, c)| (c.encoder, mean(i))).collect()
}

pub fn tables(all: &[Comparison], absent: &[Absent]) -> String {
    let mut out = String::new();
    let width = all.iter().flat_map(|c| &c.curves).map(|c| c.encoder.len()).max().unwrap_or(0);
    for c in all {
        let _ = writeln!(out, "{}: {}", c.clip, what(c));
        let _ = writeln!(out, "  {:width$}  kbit/s at luma PSNR in dB", "");
        for curve in &c.curves {
            let _ = write!(out, "  {:width$}", curve.encoder);
            for p in &curve.points {
                let _ = write!(out, "  {:>7} {:5.2}", text::significant(p.kbps), p.psnr);
            }
            out.push('\n');
        }
        let _ = writeln!(out, "  At equal PSNR ElasticTok needs:");
        for curve in c.curves.iter().skip(1) {
            let _ = writeln!(out, "  {} than {}", difference(curve.elastictok_bd_rate), curve.encoder);
        }
        out.push('\n');
    }
    if all.len() > 1 {
        let _ = writeln!(out, "Mean over {} clips, at equal PSNR ElasticTok needs:", all.len());
        for (encoder, rate) in means(all) {
            let _ = writeln!(out, "  {} than {encoder}", difference(rate));
        }
        out.push('\n');
    }
    if let Some(c) = all.first() {
        out.push_str("What was run (q: the quality, one run each):\n");
        for curve in &c.curves {
            let _ = writeln!(out, "  {}; q = {}", curve.command, qualities(curve));
        }
    }
    for a in absent {
        let _ = writeln!(out, "Not compared: {}, as the GStreamer element {} is not installed", a.encoder, a.element);
    }
    out
}

fn qualities(curve: &Curve) -> String {
    curve.points.iter().map(|p| p.quality.to_string()).collect::<Vec<_>>().join(", ")
}

fn class(i: usize) -> String {
    if i == 0 { "l0".into() } else { format!("l{i}") }
}

fn chart(c: &Comparison) -> String {
    let rates = || c.curves.iter().flat_map(|c| c.points.iter().map(|p| p.kbps)).filter(|k| *k > 0.0);
    let (low, high) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
    let mut chart = Chart::over_time(&format!("PSNR by bitrate, {}", text::file_name(&c.clip)), 1.0, "luma PSNR, dB");
    chart.x = if low < high { X::Log { low: low * 0.92, high: high * 1.08 } } else { X::Log { low: 1.0, high: 1000.0 } };
    chart.x_title = "bitrate, kbit/s".into();
    (chart.y, chart.height) = (Y::Near, 400.0);
    // ElasticTok on top of the others
    for (i, curve) in c.curves.iter().enumerate().rev() {
        let mut points = curve.points();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let class = if i == 0 { format!("{} strong", class(i)) } else { class(i) };
        chart.lines.push(Line { class, points, dots: true });
    }
    chart.svg()
}

pub fn page(all: &[Comparison], absent: &[Absent]) -> String {
    let title = match all {
        [one] => format!("ElasticTok and other encoders on {}", text::file_name(&one.clip)),
        _ => format!("ElasticTok and other encoders on {} clips", all.len()),
    };
    let mut page = Page::new(
        &title,
        "Every encoder got the same frames. Bitrates are those of the coded streams; quality is the PSNR of the decoded luma, mean over frames.",
    );
    if all.len() > 1 {
        let rows: Vec<Vec<String>> =
            means(all).into_iter().map(|(encoder, rate)| vec![format!("than {encoder}"), difference(rate)]).collect();
        page.section(
            "All clips",
            "What ElasticTok needs at equal PSNR, mean over the clips.",
            &table(&["".into(), "ElasticTok needs".into()], &rows),
        );
    }
    for c in all {
        let entries: Vec<_> = c.curves.iter().enumerate().map(|(i, c)| (class(i), c.encoder.to_string())).collect();
        let columns = c.curves.iter().map(|c| c.points.len()).max().unwrap_or(0);
        let row = |(i, curve): (usize, &Curve)| {
            let mut row = vec![curve.encoder.to_string()];
            row.extend(curve.points.iter().map(|p| format!("{} / {:.1}", text::significant(p.kbps), p.psnr)));
            row.resize(columns + 1, String::new());
            row.push(if i == 0 { String::new() } else { difference(curve.elastictok_bd_rate) });
            row
        };
        let rows: Vec<Vec<String>> = c.curves.iter().enumerate().map(row).collect();
        let mut head = vec![String::new(); columns + 2];
        head[columns + 1] = "ElasticTok needs".into();
        if let Some(first) = head.get_mut(1) {
            *first = "kbit/s / dB".into();
        }
        let html = format!("{}{}{}", legend(&entries), chart(c), table(&head, &rows));
        page.section(
            &text::file_name(&c.clip),
            &format!("{}. Up and to the left is better. The last column of the table is at equal PSNR.", what(c)),
            &html,
        );
    }
    if let Some(c) = all.first() {
        let line = |c: &Curve| {
            format!("<li>{}: <code>{}</code>, q = {}</li>", escape(c.encoder), escape(&c.command), escape(&qualities(c)))
        };
        let lines: String = c.curves.iter().map(line).collect();
        let mut caption = "GStreamer elements, with q where the quality goes.".to_string();
        for a in absent {
            let _ = write!(caption, " Not compared: {}, as {} is not installed.", a.encoder, a.element);
        }
        page.section("What was run", &caption, &format!("<ul class=\"commands\">{lines}</ul>"));
    }
    page.finish(&format!("Made by etok {}.", env!("CARGO_PKG_VERSION")))
}
