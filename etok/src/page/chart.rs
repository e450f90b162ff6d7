// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plots as SVG. Colours are classes of the page's style, so that they follow its light and dark form.

use std::fmt::Write as _;

use super::{escape, ticks};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 16.0;
const BOTTOM: f64 = 46.0;

/// What runs along the foot of a plot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum X {
    /// Seconds from 0.
    Time { longest: f64 },
    /// Anything above 0, on a logarithmic scale.
    Log { low: f64, high: f64 },
}

/// What runs along the side of a plot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Y {
    /// From 0 on.
    Zero,
    /// Only what the data reach.
    Near,
    /// Logarithmic; what is below 1 is drawn at 1.
    Log,
}

/// A polyline; where it has one point, or `dots` is set, points are marked.
#[derive(Debug, Clone, Default)]
pub struct Line {
    pub class: String,
    pub points: Vec<(f64, f64)>,
    pub dots: bool,
}

/// Edges of a band: x, lower and upper y.
pub type Edges = Vec<(f64, f64, f64)>;

/// A filled band between two edges.
#[derive(Debug, Clone, Default)]
pub struct Band {
    pub class: String,
    pub edges: Edges,
}

/// A plot.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What it shows, for those who do not see it.
    pub label: String,
    pub x: X,
    pub x_title: String,
    pub y_title: String,
    pub y: Y,
    pub height: f64,
    pub bands: Vec<Band>,
    pub lines: Vec<Line>,
    /// Ticks at the foot, for key blocks.
    pub feet: Vec<f64>,
    /// Vertical lines with a letter each.
    pub marks: Vec<(f64, String)>,
}

impl Chart {
    /// A plot over time, from 0 on.
    pub fn over_time(label: &str, longest: f64, y_title: &str) -> Self {
        let longest = if longest > 0.0 { longest } else { 1.0 };
        let x_title = if longest < 120.0 {
            "time, s"
        } else if longest < 3600.0 {
            "time, min:s"
        } else {
            "time, h:min:s"
        };
        Self {
            label: label.into(),
            x: X::Time { longest },
            x_title: x_title.into(),
            y_title: y_title.into(),
            y: Y::Zero,
            height: 286.0,
            bands: Vec::new(),
            lines: Vec::new(),
            feet: Vec::new(),
            marks: Vec::new(),
        }
    }

    /// Where the plot begins below its title and, where there are any, the letters of its marks.
    fn top(&self) -> f64 {
        if self.marks.is_empty() { 26.0 } else { 42.0 }
    }

    fn x_at(&self, x: f64) -> f64 {
        let share = match self.x {
            X::Time { longest } => x / longest,
            X::Log { low, high } => (x / low).ln() / (high / low).ln().max(1e-9),
        };
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    /// Range of the y axis, with some air.
    fn y_range(&self) -> (f64, f64) {
        let lines = self.lines.iter().flat_map(|l| l.points.iter().map(|p| p.1));
        let bands = self.bands.iter().flat_map(|b| b.edges.iter().flat_map(|e| [e.1, e.2]));
        let (low, high) = lines
            .chain(bands)
            .filter(|y| y.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), y| (l.min(y), h.max(y)));
        if low > high {
            return if self.y == Y::Log { (1.0, 10.0) } else { (0.0, 1.0) };
        }
        let air = ((high - low) * 0.06).max(high.abs() * 1e-3).max(1e-3);
        match self.y {
            Y::Zero => (0.0, (high * 1.06).max(1e-3)),
            Y::Near => (low - air, high + air),
            Y::Log => (low.max(1.0) * 0.9, (high * 1.15).max(10.0)),
        }
    }

    /// The plot as HTML with an SVG element.
    pub fn svg(&self) -> String {
        let (low, high) = self.y_range();
        let share = |y: f64| match self.y {
            Y::Log => (y.max(low) / low).ln() / (high / low).ln(),
            Y::Zero | Y::Near => (y - low) / (high - low),
        };
        let top = self.top();
        let y_at = |y: f64| self.height - BOTTOM - share(y) * (self.height - top - BOTTOM);
        let mut out =
            format!("<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">\n", self.height, escape(&self.label));
        self.grid(&mut out, (low, high), &y_at);
        for band in &self.bands {
            let upper = band.edges.iter().map(|e| (e.0, e.2));
            let lower = band.edges.iter().rev().map(|e| (e.0, e.1));
            let _ = writeln!(out, "<path class=\"band {}\" d=\"{}Z\"/>", band.class, self.path(upper.chain(lower), &y_at));
        }
        for (x, name) in &self.marks {
            let x = self.x_at(*x);
            let _ = writeln!(
                out,
                "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{:.1}\"/><text class=\"mark\" x=\"{x:.1}\" y=\"{}\">{}</text>",
                self.height - BOTTOM,
                top - 8.0,
                escape(name)
            );
        }
        for line in &self.lines {
            let _ =
                writeln!(out, "<path class=\"line {}\" d=\"{}\"/>", line.class, self.path(line.points.iter().copied(), &y_at));
            if line.dots || line.points.len() == 1 {
                for &(x, y) in &line.points {
                    let _ = writeln!(
                        out,
                        "<circle class=\"dot {}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"/>",
                        line.class,
                        self.x_at(x),
                        y_at(y)
                    );
                }
            }
        }
        for x in &self.feet {
            let (x, foot) = (self.x_at(*x), self.height - BOTTOM);
            let _ = writeln!(out, "<line class=\"foot\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{foot:.1}\"/>", foot - 7.0);
        }
        out.push_str("</svg></div>");
        out
    }

    fn path(&self, points: impl Iterator<Item = (f64, f64)>, y_at: &impl Fn(f64) -> f64) -> String {
        let mut d = String::new();
        for (i, (x, y)) in points.enumerate() {
            let _ = write!(d, "{}{:.1} {:.1}", if i == 0 { "M" } else { "L" }, self.x_at(x), y_at(y));
        }
        d
    }

    /// Grid, axes and what is written at them.
    fn grid(&self, out: &mut String, (low, high): (f64, f64), y_at: &impl Fn(f64) -> f64) {
        let (top, foot, end) = (self.top(), self.height - BOTTOM, WIDTH - RIGHT);
        let rows = if self.y == Y::Log { ticks::logarithmic(low, high) } else { ticks::linear(low, high, 5) };
        // on long scales only powers of ten
        let rows: Vec<f64> = if self.y == Y::Log && rows.len() > 8 {
            rows.into_iter().filter(|t| (t.log10() - t.log10().round()).abs() < 1e-6).collect()
        } else {
            rows
        };
        let step = rows.get(1).map_or(0.0, |b| b - rows[0]);
        for y in rows {
            let at = y_at(y);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"y\" x=\"{}\" y=\"{:.1}\">{}</text>",
                LEFT - 9.0,
                at + 4.0,
                ticks::label(y, step)
            );
        }
        let columns: Vec<(f64, String)> = match self.x {
            X::Time { longest } => {
                let all = ticks::times(longest);
                let step = all.get(1).map_or(0.0, |b| b - all[0]);
                all.into_iter().map(|t| (t, ticks::clock(t, step, longest))).collect()
            }
            X::Log { low, high } => {
                ticks::logarithmic(low, high).into_iter().map(|t| (t, ticks::label(t, if t < 1.0 { t } else { 1.0 }))).collect()
            }
        };
        for (x, name) in columns {
            let at = self.x_at(x);
            if matches!(self.x, X::Log { .. }) {
                let _ = writeln!(out, "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{foot:.1}\"/>");
            }
            let _ = writeln!(
                out,
                "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{foot:.1}\" y2=\"{:.1}\"/><text class=\"x\" x=\"{at:.1}\" y=\"{:.1}\">{name}</text>",
                foot + 5.0,
                foot + 19.0
            );
        }
        let _ = writeln!(
            out,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{foot:.1}\" y2=\"{foot:.1}\"/>\n\
             <text class=\"title\" x=\"{end}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><text class=\"title\" x=\"0\" y=\"{:.1}\">{}</text>",
            self.height - 8.0,
            escape(&self.x_title),
            12.0,
            escape(&self.y_title)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degenerate_data_draws_too() {
        let mut chart = Chart::over_time("x", 0.0, "tokens");
        assert!(chart.svg().contains("</svg>"), "no data");
        chart.lines.push(Line { class: "l1".into(), points: vec![(0.0, 0.0)], dots: false });
        let svg = chart.svg();
        assert!(svg.contains("<circle") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        chart.x = X::Log { low: 5.0, high: 5.0 };
        chart.y = Y::Near;
        assert!(!chart.svg().contains("NaN"));
        chart.y = Y::Log;
        chart.lines[0].points = vec![(0.0, 0.0), (0.5, 1e6)];
        let svg = chart.svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn larger_is_higher_and_later_is_further_right() {
        let mut chart = Chart::over_time("x", 10.0, "y");
        chart.lines.push(Line { class: "l1".into(), points: vec![(0.0, 1.0), (10.0, 9.0)], dots: true });
        let svg = chart.svg();
        let numbers = |name: &str| -> Vec<f64> {
            svg.split(&format!(" {name}=\"")).skip(1).filter_map(|s| s.split('"').next()?.parse().ok()).collect()
        };
        let (x, y) = (numbers("cx"), numbers("cy"));
        assert!(x[0] < x[1] && y[0] > y[1]);
    }
}
