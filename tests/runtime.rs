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
        encoder.set_position(block as i64);
        decoder.set_position(block as i64);
        encoder.motion_mut().fill(0);
        decoder.motion_mut().fill(0);
        encoder.run(&mut decoder).expect("runs");
        match (encoder.tokens(), decoder.tokens_mut()) {
            (Tokens::I16(latents), TokensMut::I32(tokens)) => {
                tokens.iter_mut().zip(latents).for_each(|(to, x)| *to = i32::from(*x));
            }
            (Tokens::I16(latents), TokensMut::I16(tokens)) => tokens.copy_from_slice(latents),
            _ => panic!("nested latents are i16 out of the encoder graph, i32 (in older bundles i16) into the decoder graph"),
        }
        decoder.counts_mut().fill(bundle.manifest.tokens_per_cell as i32);
        // A fine step, for which the filter corrects next to nothing.
        decoder.set_step(0.125);
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
