// SPDX-License-Identifier: MIT OR Apache-2.0
//! docs/bundle.md against the code: its examples parse, and its tables have the fields that a manifest has.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use elastictok::bundle::{Bottleneck, Manifest};
use serde_json::Value;

fn reference() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bundle.md")).unwrap()
}

/// What stands between ```` ```json ```` and the next fence, each time.
fn examples(text: &str) -> Vec<String> {
    let parts = text.split("\n```json\n").skip(1);
    parts.map(|part| part.split_once("\n```").expect("a fence ends the example").0.to_owned()).collect()
}

fn manifest(json: &Value) -> Result<Manifest, String> {
    Manifest::parse(json.to_string().as_bytes()).map_err(|e| e.to_string())
}

/// The first column of the table whose header begins with `header`, each name without its backticks.
fn names(text: &str, header: &str) -> BTreeSet<String> {
    let at = text.find(&format!("\n| {header} |")).unwrap_or_else(|| panic!("no table '{header}'"));
    let rows = text[at + 1..].lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).unwrap_or_else(|| panic!("no name in {row}")).to_owned()).collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn examples_parse_and_tables_have_the_fields_that_there_are() {
    let text = reference();
    let mut kinds = BTreeSet::new();
    for example in examples(&text) {
        let parsed = Manifest::parse(example.as_bytes()).unwrap_or_else(|e| panic!("{e}:\n{example}"));
        let fields = serde_json::to_value(&parsed).unwrap();
        assert_eq!(keys(&fields), names(&text, "field"), "fields of a manifest");
        let kind = fields["bottleneck"]["kind"].as_str().unwrap();
        assert_eq!(keys(&fields["bottleneck"]), names(&text, &format!("field of `{kind}`")), "fields of {kind}");
        if fields["search"]["rule"] == "official" {
            assert_eq!(keys(&fields["search"]), names(&text, "field of `official`"), "fields of the search rule");
            kinds.insert("official".to_owned());
        }
        kinds.insert(kind.to_owned());
    }
    assert_eq!(kinds, ["fsq", "nested", "official", "vae"].map(str::to_owned).into(), "an example of each");
}

#[test]
fn what_the_tables_call_required_is_required_and_the_rest_is_not() {
    let text = reference();
    for example in examples(&text) {
        let full: Value = serde_json::from_str(&example).unwrap();
        let at = text.find("\n| field |").unwrap();
        for row in text[at + 1..].lines().skip(2).take_while(|line| line.starts_with('|')) {
            let (name, default) = (row.split('`').nth(1).unwrap(), row.split(" | ").nth(2).unwrap().trim());
            let mut less = full.clone();
            // In an example these are there for a reason that another field gives.
            let needed = less["bottleneck"]["kind"] == "nested" && name.starts_with("takes_")
                || less["search"]["rule"] == "official" && name == "min_tokens";
            less.as_object_mut().unwrap().remove(name);
            let parsed = manifest(&less);
            assert_eq!(parsed.is_err(), default == "required" || needed, "without {name}: {parsed:?}");
        }
    }
}

#[test]
fn unknown_fields_are_refused_in_the_bottleneck_as_well() {
    for example in examples(&reference()) {
        let full: Value = serde_json::from_str(&example).unwrap();
        for path in ["", "/bottleneck"] {
            let mut more = full.clone();
            more.pointer_mut(path).unwrap()["coefficients"] = 4.into();
            let error = manifest(&more).expect_err("no such field");
            assert!(error.contains("unknown field `coefficients`"), "{error}");
        }
    }
}

#[test]
fn a_nested_example_counts_its_coefficients_by_positions() {
    let nested = examples(&reference()).into_iter().find(|e| e.contains("\"nested\"")).unwrap();
    let parsed = Manifest::parse(nested.as_bytes()).unwrap();
    let Bottleneck::Nested { positions, .. } = &parsed.bottleneck else { panic!("nested") };
    assert_eq!(parsed.tokens_per_cell as usize, positions.len());
    assert_eq!(parsed.stream_tokens_per_cell(4) as usize, 4 * positions.len());
}
