// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trains a bundle's `tables.bin` on dumps of latents and says where the bits go.
//!
//! `collect_tables OUT.bin ROUNDS DUMP...` trains from flat tables; `collect_tables --check TABLES.bin DUMP...` only measures.
//! With START=TABLES.bin in the environment, training begins from those, and keeps their classes and what the dumps do not touch.
//! `elastictok_tools::dump` describes the format of a dump.

use std::fs::File;
use std::io::BufReader;

use anyhow::{Context as _, Result, bail};
use elastictok::internals::entropy::Tables;
use elastictok::internals::tokens::{CONTEXTS, Rdo};
use elastictok_tools::dump::DumpReader;
use elastictok_tools::train::Trainer;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [first, second, dumps @ ..] = &args[..] else {
        bail!("usage: collect_tables OUT.bin ROUNDS DUMP.. | --check TABLES.bin DUMP..")
    };
    let lambda = std::env::var("LAMBDA").ok().and_then(|v| v.parse().ok()).unwrap_or(1.0);
    let rdo = Rdo { lambda, ..Rdo::default() };
    if first == "--check" {
        let tables = Tables::parse(&std::fs::read(second)?)?;
        report(&round(&tables, rdo, dumps)?);
        return Ok(());
    }
    let rounds: usize = second.parse().context("the number of rounds")?;
    // a start keeps its classes, and its contexts where the dumps have none
    let start = std::env::var("START").ok();
    let mut tables = match &start {
        Some(path) => Tables::parse(&std::fs::read(path)?)?,
        None => Tables::flat(CONTEXTS),
    };
    for i in 0..rounds {
        let trainer = round(&tables, rdo, dumps)?;
        println!("round {i}");
        report(&trainer);
        tables = trainer.fitted()?;
        // classes move once decisions are sensible, and early enough for the contexts to follow
        if start.is_none() && (i == 0 || (i == 1 && rounds > 3)) {
            tables = Tables::from_parts(tables.init().to_vec(), trainer.classes(), tables.biases().to_vec())?;
        }
    }
    std::fs::write(first, tables.to_bytes()).with_context(|| format!("cannot write {first}"))?;
    Ok(())
}

fn round(tables: &Tables, rdo: Rdo, dumps: &[String]) -> Result<Trainer> {
    let only: Option<u8> = std::env::var("QUANTISER").ok().and_then(|v| v.parse().ok());
    let mut trainer: Option<Trainer> = None;
    let mut by_quantiser = std::collections::BTreeMap::<(bool, u8), [f64; 5]>::new();
    for dump in dumps {
        let file = File::open(dump).with_context(|| format!("cannot read {dump}"))?;
        let mut reader = DumpReader::new(BufReader::new(file))?;
        let positions = reader.positions.clone();
        let trainer = trainer.get_or_insert_with(|| Trainer::new(&positions, tables.clone(), rdo));
        while let Some(block) = reader.next_block()? {
            let last = block.steps.depth() - 1;
            let quantiser = block.steps.quantiser(last);
            if only.is_some_and(|q| q != quantiser) {
                continue;
            }
            let (estimate, bytes) = trainer.add(&block)?;
            let sums = by_quantiser.entry((block.key, quantiser)).or_default();
            let pixels = (block.cells_x * block.cells_y * 512) as f64;
            // distortion in bits at the price of a bit
            let price = 0.13 * f64::from(block.steps.step(last)).powi(2);
            for (sum, value) in sums.iter_mut().zip([
                pixels,
                8.0 * bytes as f64,
                estimate.bits,
                estimate.luma / 64.0,
                (estimate.luma + estimate.chroma) / price,
            ]) {
                *sum += value;
            }
        }
    }
    let mut total = [0.0; 3];
    for ((key, q), [pixels, bits, guess, luma, price]) in &by_quantiser {
        let psnr = 10.0 * (65025.0 * pixels / luma).log10();
        println!(
            "{} q {q:2}: {:.4} bpp (estimated {:.4}), luma {psnr:.2} dB, bits + distortion {:.4} bpp",
            if *key { "key  " } else { "inter" },
            bits / pixels,
            guess / pixels,
            (bits + price) / pixels
        );
        // every rate counts alike
        total[0] += (bits / pixels).ln();
        total[1] += ((bits + price) / pixels).ln();
        total[2] += 1.0;
    }
    println!("mean: {:.5} bpp, {:.5} with distortion", (total[0] / total[2]).exp(), (total[1] / total[2]).exp());
    trainer.context("no dump given")
}

fn report(trainer: &Trainer) {
    let total: u64 = 8 * trainer.layer_bytes.iter().sum::<u64>();
    println!("bytes of layers: {:?}; {} coded cells", trainer.layer_bytes, trainer.estimate.coded_cells);
    let mut shares = trainer.shares();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (name, bits) in shares.iter().take(30) {
        println!("  {:5.2} %  {name}", 100.0 * bits / total as f64);
    }
}
