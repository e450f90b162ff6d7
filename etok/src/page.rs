// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that need nothing but themselves: one style, and plots as SVG.

pub mod chart;
mod ticks;

use std::fmt::Write as _;

const STYLE: &str = include_str!("page/style.css");

/// Text as HTML has it.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A page. Titles and the like are text, bodies are HTML.
pub struct Page {
    title: String,
    lead: String,
    body: String,
}

impl Page {
    /// A page with a title, and a line under it that says what it is of.
    pub fn new(title: &str, lead: &str) -> Self {
        Self { title: escape(title), lead: escape(lead), body: String::new() }
    }

    /// Figures in a row: value and what it is.
    pub fn facts(&mut self, facts: &[(String, &str)]) {
        self.body.push_str("<dl class=\"facts\">");
        for (value, what) in facts {
            let _ = write!(self.body, "<div><dt>{}</dt><dd>{}</dd></div>", escape(what), escape(value));
        }
        self.body.push_str("</dl>\n");
    }

    /// A section: heading and caption are text, `html` is what it shows.
    pub fn section(&mut self, heading: &str, caption: &str, html: &str) {
        let _ = write!(
            self.body,
            "<section>\n<h2>{}</h2>\n<p class=\"caption\">{}</p>\n{html}\n</section>\n",
            escape(heading),
            escape(caption)
        );
    }

    /// The whole file; `made_by` is what stands at the foot.
    pub fn finish(self, made_by: &str) -> String {
        let Self { title, lead, body } = self;
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
             <header>\n<h1>{title}</h1>\n<p class=\"lead\">{lead}</p>\n</header>\n{body}\
             <footer>{}</footer>\n</main>\n</body>\n</html>\n",
            escape(made_by)
        )
    }
}

/// A legend: class of the colour and what it stands for.
pub fn legend(entries: &[(String, String)]) -> String {
    let items: String =
        entries.iter().map(|(class, name)| format!("<li><i class=\"{}\"></i>{}</li>", escape(class), escape(name))).collect();
    format!("<ul class=\"legend\">{items}</ul>")
}

/// A table; the first column is text, the others are numbers.
pub fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, row: &[String]| -> String { row.iter().map(|c| format!("<{tag}>{}</{tag}>", escape(c))).collect() };
    let body: String = rows.iter().map(|r| format!("<tr>{}</tr>\n", cells("td", r))).collect();
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>",
        cells("th", head)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_the_page() {
        let mut page = Page::new("<script>alert(1)</script>.etok", "a & b");
        page.section("\"x\"", "y", &table(&["<a>".into()], &[vec!["'".into()]]));
        let html = page.finish("etok");
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;") && html.contains("&#39;"));
        assert!(!html.contains("http://") && !html.contains("https://"), "nothing from the network");
    }
}
