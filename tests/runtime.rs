// SPDX-License-Identifier: MIT OR Apache-2.0
//! The builtin bundle's graphs in ONNX Runtime.

use elastictok::Error;
use elastictok::bundle::{Bundle, Graph};
use elastictok::internals::runtime::{DecoderGraph, EncoderGraph, Tokens, TokensMut};
use elastictok::runtime::{ExecutionProvider, RuntimeConfig};

fn cpu() -> RuntimeConfig {
    RuntimeConfig { provider: ExecutionProvider::Cpu, threads: 1, ..Default::default() }
}

#[test]
fn unquantised_latents_give_the_picture_back_and_contexts_follow_commits() {
    let bundle = Bundle::builtin().expect("builtin bundle");
    let geometry = bundle.geometry(48, 32).expect("size");
    let mut decoder =
        DecoderGraph::open(&bundle, &geometry, &cpu()).expect("decoder (run install-deps.sh if ONNX Runtime is missing)");
    let mut encoder = EncoderGraph::open(&bundle, &geometry, &cpu(), &mut decoder).expect("encoder");
    assert_eq!(decoder.provider(), "cpu");
    let mut worst = 0;
    for block in 0..4 {
        for (i, p) in encoder.frames_mut().iter_mut().enumerate() {
            *p = ((i * 7 + block * 31) % 200 + 20) as u8;
        }
        encoder.inputs().set_position(block as i64);
        decoder.inputs().set_position(block as i64);
        encoder.inputs().motion_mut().fill(0);
        decoder.inputs().motion_mut().fill(0);
        encoder.run(&mut decoder).expect("runs");
        match (encoder.tokens(), decoder.tokens_mut()) {
            (Tokens::I16(latents), TokensMut::I32(tokens)) => {
                tokens.iter_mut().zip(latents).for_each(|(to, x)| *to = i32::from(*x));
            }
            (Tokens::I16(latents), TokensMut::I16(tokens)) => tokens.copy_from_slice(latents),
            _ => panic!("nested latents are i16 out of the encoder graph, i32 (in older bundles i16) into the decoder graph"),
        }
        decoder.inputs().counts_mut().fill(bundle.manifest.tokens_per_cell as i32);
        // A fine step, for which the filter corrects next to nothing.
        decoder.inputs().set_step(0.125);
        decoder.run().expect("runs");
        let first = decoder.frames().to_vec();
        decoder.run().expect("runs again");
        assert_eq!(first, decoder.frames(), "an uncommitted run must leave the context alone");
        decoder.commit();
        encoder.commit();
        worst = worst.max(first.iter().zip(encoder.frames()).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(255));
    }
    assert!(worst <= 1, "off by {worst}");
    decoder.reset().expect("resets");
}

/// A number generator (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// Within +-`most`.
    fn within(&mut self, most: u64) -> i32 {
        self.below(2 * most + 1) as i32 - most as i32
    }
}

/// Latents, errors and frames of a few blocks with random motion and tokens, which some cells have.
fn on_threads(threads: usize, (width, height): (u32, u32), everywhere: bool) -> Vec<(Vec<i16>, Vec<f32>, Vec<u8>)> {
    let bundle = Bundle::builtin().expect("builtin bundle");
    let geometry = bundle.geometry(width, height).expect("size");
    let config = RuntimeConfig { threads, ..cpu() };
    let (mut encoder, mut decoder) = EncoderGraph::open_with_loop(&bundle, &geometry, &config).expect("graphs");
    let mut alone = DecoderGraph::open(&bundle, &geometry, &config).expect("decoder");
    let (cells, mut random, mut found) = (geometry.cells(), Random(5), Vec::new());
    for block in 0..4 {
        if block % 3 == 0 {
            decoder.reset().expect("resets");
            alone.reset().expect("resets");
        }
        let position = block % 3;
        encoder.frames_mut().iter_mut().for_each(|p| *p = random.below(256) as u8);
        let motion: Vec<i32> = (0..5 * cells)
            .map(|at| match at / cells {
                0 | 1 => random.within(200),
                2 => random.below(3) as i32,
                _ => random.within(60),
            })
            .collect();
        let counts: Vec<i32> = (0..cells).map(|cell| i32::from((everywhere || cell % 11 == 3) && random.below(3) > 0)).collect();
        let tokens: Vec<i32> = (0..cells * 768).map(|at| random.within(900) * counts[at / 768]).collect();
        encoder.inputs().motion_mut().copy_from_slice(&motion);
        encoder.inputs().set_position(position);
        encoder.inputs().set_step(8.0);
        for graph in [&mut decoder, &mut alone] {
            graph.inputs().motion_mut().copy_from_slice(&motion);
            graph.inputs().counts_mut().copy_from_slice(&counts);
            let TokensMut::I32(taken) = graph.tokens_mut() else { panic!("i32") };
            taken.copy_from_slice(&tokens);
            graph.inputs().set_position(position);
            graph.inputs().set_step(8.0);
        }
        encoder.run(&mut decoder).expect("runs");
        decoder.run().expect("runs");
        alone.run().expect("runs");
        assert!(decoder.frames() == alone.frames(), "the encoder's loop has another picture");
        let Tokens::I16(latents) = encoder.tokens() else { panic!("i16") };
        let errors = encoder.distortion().expect("predicted").to_vec();
        found.push((latents.to_vec(), errors, alone.frames().to_vec()));
        encoder.commit();
        decoder.commit();
        alone.commit();
    }
    found
}

#[test]
fn bands_of_all_sizes_give_the_same_picture() {
    for (size, everywhere) in [((48, 208), false), ((64, 208), true), ((32, 48), true), ((16, 16), true), ((320, 32), false)] {
        let expected = on_threads(1, size, everywhere);
        for threads in [2, 3, 7] {
            for (block, (given, expected)) in on_threads(threads, size, everywhere).iter().zip(&expected).enumerate() {
                assert!(given.0 == expected.0, "{size:?}, {threads} threads, block {block}: latents");
                // logarithms at the end of a tensor may be rounded otherwise; these numbers only guide the encoder
                let close = |(a, b): (&f32, &f32)| a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-4 * b;
                let errors = given.1.len() == expected.1.len() && given.1.iter().zip(&expected.1).all(close);
                assert!(errors, "{size:?}, {threads} threads, block {block}: errors");
                assert!(given.2 == expected.2, "{size:?}, {threads} threads, block {block}: frames");
            }
        }
    }
}

#[test]
fn a_provider_that_is_not_there_is_an_error_that_names_the_library() {
    let bundle = Bundle::builtin().expect("builtin bundle");
    let geometry = bundle.geometry(32, 32).expect("size");
    for (provider, library) in [(ExecutionProvider::Cuda, "providers_cuda"), (ExecutionProvider::TensorRt, "providers_tensorrt")]
    {
        let cache = std::env::temp_dir().join("elastictok-test-cache");
        let config = RuntimeConfig { provider, cache_dir: Some(cache), ..cpu() };
        match DecoderGraph::open(&bundle, &geometry, &config) {
            Err(Error::Runtime(message)) => assert!(message.contains(library), "{message}"),
            Err(other) => panic!("{other}"),
            Ok(graph) => assert_ne!(graph.provider(), "cpu"),
        }
    }
    let auto = DecoderGraph::open(&bundle, &geometry, &RuntimeConfig { provider: ExecutionProvider::Auto, ..cpu() })
        .expect("auto always runs");
    assert!(["cpu", "cuda"].contains(&auto.provider()));
}

#[test]
fn graphs_that_break_the_contract_are_refused_by_name() {
    let bundle = Bundle::builtin().expect("builtin bundle");
    let geometry = bundle.geometry(32, 32).expect("size");
    let refused = |change: &dyn Fn(&mut Bundle)| {
        let mut broken = (*bundle).clone();
        change(&mut broken);
        match DecoderGraph::open(&broken, &geometry, &cpu()) {
            Err(e) => e.to_string(),
            Ok(_) => panic!("accepted"),
        }
    };
    assert!(refused(&|b| b.decoder = b.encoder.clone()).contains("'tokens' is missing"));
    assert!(refused(&|b| b.manifest.takes_step = false).contains("'step' is not in the contract"));
    assert!(refused(&|b| b.manifest.block_length = 3).contains("'frames' has shape"));
    assert!(refused(&|b| b.manifest.band_halo = None).contains("'rows' is not in the contract"));
    assert!(refused(&|b| b.decoder = b"not a graph".as_slice().into()).contains("does not load"));
}

#[test]
fn loop_graphs_take_what_the_encoder_graph_gives() {
    let bundle = Bundle::builtin().expect("builtin bundle");
    let geometry = bundle.geometry(32, 48).expect("size");
    let refused = |change: &dyn Fn(&mut Bundle)| {
        let mut broken = (*bundle).clone();
        change(&mut broken);
        let [one, side_by_side] = [1, 2].map(|threads| {
            let opened = EncoderGraph::open_with_loop(&broken, &geometry, &RuntimeConfig { threads, ..cpu() });
            opened.map(drop).expect_err("accepted").to_string()
        });
        assert_eq!(one, side_by_side);
        one
    };
    let message = refused(&|b| b.loop_graph = Some(b.encoder.clone()));
    assert!(message.contains("loop graph: input 'tokens' is missing"), "{message}");
    let message = refused(&|b| b.loop_graph = Some(b"not a graph".as_slice().into()));
    assert!(message.contains("the loop graph of bundle 'builtin' does not load"), "{message}");
    // a loop graph that asks for something else
    let renamed = |graph: &Graph| {
        let Graph::Memory(bytes) = graph else { panic!("in memory") };
        let (from, mut bytes) = (b"loop.luma", bytes.to_vec());
        for at in 0..bytes.len() - from.len() {
            if bytes[at..].starts_with(from) {
                bytes[at + from.len() - 1] = b'x';
            }
        }
        Graph::from(bytes)
    };
    let message = refused(&|b| b.loop_graph = b.loop_graph.as_ref().map(renamed));
    assert!(message.contains("the encoder graph does not give 'loop.lumx'"), "{message}");
}
