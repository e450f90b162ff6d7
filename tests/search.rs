// SPDX-License-Identifier: MIT OR Apache-2.0
//! The official searches against tables that the official code computed.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Npz, fixtures};
use elastictok::internals::search::{FoundCounts, Official};

/// One decision of the official code.
struct Row {
    rule: Official,
    curve: Vec<f32>,
    binary: (u32, u32),
    linear: u32,
}

/// What the search keeps under a curve with the loss of k tokens at [k - 1].
fn run(rule: &Official, curve: &[f32], linear: bool) -> FoundCounts {
    let mut evaluate = |kept: &[u32], losses: &mut [f32]| {
        losses[0] = curve[kept[0] as usize - 1];
        Ok(())
    };
    if linear { rule.linear(1, &mut evaluate).unwrap() } else { rule.binary(1, &mut evaluate).unwrap() }
}

fn check(rows: &[Row]) {
    for (i, row) in rows.iter().enumerate() {
        let found = run(&row.rule, &row.curve, false);
        assert_eq!((found.counts[0], found.evaluations), row.binary, "binary, row {i}: {:?}", row.rule);
        let found = run(&row.rule, &row.curve, true);
        assert_eq!((found.counts[0], found.evaluations), (row.linear, row.rule.n_interp), "linear, row {i}: {:?}", row.rule);
    }
}

/// Rows computed by hand from the rules.
fn by_hand() -> Vec<Row> {
    let rule = |threshold| Official { least: 4, most: 16, default_prop: 0.75, max_prop: 1.0, n_interp: 3, threshold };
    let falling: Vec<f32> = (1..=16).map(|k| 1.0 - k as f32 / 16.0).collect();
    // Arguments of the grid: 4, 8, 16; kept 5, 9, 16.
    vec![
        // 10 (11 kept, 0.3125) fails, 13 (14 kept, 0.125) meets, 11 (12 kept) ties, which is not below, 12 (13 kept, 0.1875) meets.
        Row { rule: rule(0.25), curve: falling.clone(), binary: (12, 4), linear: 16 },
        // 10, 7, 5 meet the target.
        Row { rule: rule(0.9), curve: falling.clone(), binary: (5, 3), linear: 4 },
        // Nothing does: three quarters of 16. Tried: 10, 13, 15, 16.
        Row { rule: rule(-1.0), curve: falling.clone(), binary: (12, 4), linear: 12 },
        // A tie at all tokens is valid.
        Row { rule: rule(0.0), curve: falling, binary: (16, 4), linear: 16 },
    ]
}

#[test]
fn counts_are_those_computed_by_hand() {
    check(&by_hand());
}

#[test]
#[ignore = "needs the official fixtures; tests/run.sh runs it where they are"]
fn counts_are_the_official_ones() {
    let folder = fixtures();
    let mut table = Npz::open(&folder.join("units/search_table.npz"));
    let prefixes: Vec<String> = table.names().iter().filter_map(|n| n.strip_suffix("_curves").map(str::to_owned)).collect();
    assert!(!prefixes.is_empty());
    for prefix in prefixes {
        let (least, most) = prefix.split_once('_').map(|(a, b)| (a.parse().unwrap(), b.parse::<u32>().unwrap())).unwrap();
        let curves: Vec<f32> = table.get(&format!("{prefix}_curves"));
        let mut int = |name: &str| -> Vec<i32> { table.get(&format!("{prefix}_{name}")) };
        let (curve, n_interp, binary) = (int("curve"), int("n_interp"), int("binary_ntoks"));
        let (evaluations, linear) = (int("binary_evaluations"), int("linear_ntoks"));
        let mut float = |name: &str| -> Vec<f64> { table.get(&format!("{prefix}_{name}")) };
        let (threshold, default_prop, max_prop) = (float("threshold"), float("default_prop"), float("max_prop"));
        let rows: Vec<Row> = (0..curve.len())
            .map(|i| Row {
                rule: Official {
                    least,
                    most,
                    default_prop: default_prop[i],
                    max_prop: max_prop[i],
                    n_interp: n_interp[i] as u32,
                    threshold: threshold[i] as f32,
                },
                curve: curves[curve[i] as usize * most as usize..][..most as usize].to_vec(),
                binary: (binary[i] as u32, evaluations[i] as u32),
                linear: linear[i] as u32,
            })
            .collect();
        assert!(rows.len() >= 10);
        check(&rows);
        for name in table.names().iter().filter(|n| n.starts_with(&format!("{prefix}_grid_"))) {
            let mut parts = name.rsplit('_');
            let percent: f64 = parts.next().unwrap().parse().unwrap();
            let n_interp = parts.next().unwrap().parse().unwrap();
            let rule = Official { least, most, default_prop: 1.0, max_prop: percent / 100.0, n_interp, threshold: 0.0 };
            let grid: Vec<u32> = table.get::<i32>(name).into_iter().map(|n| n as u32).collect();
            assert_eq!(rule.grid(), grid, "{name}");
        }
    }
}

/// The searches of the fixtures with a model, replayed from the losses that the official code saw: same candidates in the
/// same order, same results.
#[test]
#[ignore = "needs the official fixtures; tests/run.sh runs it where they are"]
fn candidates_are_the_official_ones() {
    let folder = fixtures();
    for case in ["binary_search", "linear_search"] {
        let config: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(folder.join(case).join("config.json")).unwrap()).unwrap();
        let mut data = Npz::open(&folder.join(case).join("data.npz"));
        let number = |v: &serde_json::Value| v.as_f64().unwrap();
        for (r, run) in config["runs"].as_array().unwrap().iter().enumerate() {
            let rule = Official {
                least: number(&config["min_toks"]) as u32,
                most: number(&config["max_toks"]) as u32,
                default_prop: number(&run["default_prop_codes"]),
                max_prop: number(&run["max_prop_codes"]),
                n_interp: run.get("n_interp").map_or(100, number_of),
                threshold: number(&run["threshold"]) as f32,
            };
            let mut int = |name: &str| -> Vec<i32> { data.get(&format!("run{r}_{name}")) };
            let (block, kept, finals) = (int("trace_block"), int("trace_kept"), int("final_ntoks"));
            let loss: Vec<f32> = data.get(&format!("run{r}_trace_loss"));
            let commit: Vec<bool> = data.get(&format!("run{r}_trace_commit"));
            for (b, &wanted) in finals.iter().enumerate() {
                let mut trace = (0..block.len()).filter(|&i| block[i] == b as i32 && !commit[i]);
                let mut evaluate = |counts: &[u32], losses: &mut [f32]| {
                    let i = trace.next().expect("no more candidates than the official code tried");
                    assert_eq!(counts[0], kept[i] as u32, "{case}, run {r}, block {b}");
                    losses[0] = loss[i];
                    Ok(())
                };
                let found = if case == "binary_search" { rule.binary(1, &mut evaluate) } else { rule.linear(1, &mut evaluate) };
                assert_eq!(found.unwrap().counts, [wanted as u32], "{case}, run {r}, block {b}");
                assert!(trace.next().is_none(), "{case}, run {r}, block {b}: the official code went on");
            }
        }
    }
}

fn number_of(v: &serde_json::Value) -> u32 {
    v.as_u64().unwrap() as u32
}
