// SPDX-License-Identifier: MIT OR Apache-2.0
//! Encoder and decoder together, on the builtin model.
#![allow(clippy::unwrap_used)]

use elastictok::Error;
use elastictok::bitstream::{Block, BlockHeader, BlockWriter, Limits, SequenceHeader, thin};
use elastictok::bundle::Bundle;
use elastictok::codec::{
    CountReader, Decoder, DecoderConfig, Encoder, EncoderConfig, FrameTime, GraphAhead, LiveSettings, Load, Packet, RateControl,
    SearchMethod, TokenReader, psnr,
};
use elastictok::frame::{PlanesMut, PlanesRef, SourceFormat};
use elastictok::runtime::{Canceller, ExecutionProvider, RuntimeConfig};

const W: usize = 150;
const H: usize = 98;
const CW: usize = W.div_ceil(2);
const CH: usize = H.div_ceil(2);

fn runtime() -> RuntimeConfig {
    RuntimeConfig { provider: ExecutionProvider::Cpu, threads: 1, ..Default::default() }
}

fn encoder(live: LiveSettings, search: SearchMethod, key_int_max: u32) -> Encoder {
    Encoder::new(config(live, search, key_int_max)).unwrap()
}

fn config(live: LiveSettings, search: SearchMethod, key_int_max: u32) -> EncoderConfig {
    EncoderConfig {
        bundle: Bundle::builtin().unwrap(),
        runtime: runtime(),
        width: W as u32,
        height: H as u32,
        framerate: (25, 1),
        pixel_aspect_ratio: (1, 1),
        colorimetry: [0, 2, 2, 2],
        chroma_site: 0,
        key_int_max,
        search,
        layers: 0,
        layer_ratio: 2.0,
        drift_free: true,
        live,
    }
}

#[test]
fn a_graph_that_was_opened_ahead_decodes_the_same() {
    let mut encoder = encoder(LiveSettings::default(), SearchMethod::Regression, 0);
    let packets: Vec<_> = (0..6).filter_map(|n| push(&mut encoder, n)).collect();
    let begin = |runtime| Some(GraphAhead::begin(Bundle::builtin().unwrap(), runtime).unwrap());
    let other = RuntimeConfig { threads: 2, ..runtime() };
    for loaded in [None, begin(runtime()), begin(other)] {
        let [mut plain, mut ahead] = [decoder(&encoder, None), decoder(&encoder, None)];
        ahead.open_ahead(loaded).unwrap();
        ahead.open_ahead(begin(runtime())).unwrap();
        assert_eq!(ahead.provider(), "none");
        for (i, packet) in packets.iter().enumerate() {
            assert_eq!(errors(&mut plain, &packet.data, 2 * i).unwrap(), errors(&mut ahead, &packet.data, 2 * i).unwrap());
            ahead.open_ahead(None).unwrap();
        }
    }
    // One that is not used in the end goes with its decoder.
    decoder(&encoder, None).open_ahead(begin(runtime())).unwrap();
}

fn decoder(encoder: &Encoder, max_layers: Option<usize>) -> Decoder {
    let header = encoder.sequence_header().clone();
    Decoder::new(DecoderConfig {
        bundle: Bundle::builtin().unwrap(),
        runtime: runtime(),
        header,
        max_layers,
        limits: Limits::default(),
    })
    .unwrap()
}

/// A textured scene that pans, with a disc that moves over it; a cut at frame 40.
fn frame(n: usize) -> [Vec<u8>; 3] {
    let scene = if n >= 40 { 3.0 } else { 0.0 };
    let t = n as f32;
    let wave = |y: f32, x: f32| {
        (0.21 * x + 0.13 * y + scene).sin() * 20.0 + (0.37 * y - 0.29 * x).sin() * 14.0 + (0.05 * x * (1.0 + scene)).cos() * 30.0
    };
    let luma = (0..H * W).map(|i| {
        let (y, x) = ((i / W) as f32, (i % W) as f32);
        let disc = (y - 40.0 - 0.5 * t).hypot(x - 30.0 - 1.5 * t) < 18.0;
        (if disc { 190.0 + 0.3 * (x - y) } else { 110.0 + wave(y + 0.4 * t, x + 0.8 * t) }) as u8
    });
    let chroma =
        |c: f32| (0..CH * CW).map(move |i| (128.0 + c * (0.05 * (i % CW) as f32 + t * 0.02 + scene).sin()) as u8).collect();
    [luma.collect(), chroma(20.0), chroma(-30.0)]
}

fn push(encoder: &mut Encoder, n: usize) -> Option<Packet> {
    let planes = frame(n);
    let picture = PlanesRef { format: SourceFormat::I420, planes: [&planes[0], &planes[1], &planes[2]], strides: [W, CW, CW] };
    let time = FrameTime { pts: Some(n as u64 * 40_000_000), duration: Some(40_000_000) };
    encoder.push(&picture, time).unwrap()
}

/// Codes frames 0..n; each packet with the luma PSNR that the encoder measured.
fn encode(encoder: &mut Encoder, n: usize) -> Vec<(Packet, f64)> {
    let mut out = Vec::new();
    for i in 0..n {
        if let Some(p) = push(encoder, i) {
            encoder.settle().unwrap();
            out.push((p, encoder.stats().psnr.unwrap()));
        }
    }
    if let Some(p) = encoder.drain().unwrap() {
        encoder.settle().unwrap();
        out.push((p, encoder.stats().psnr.unwrap()));
    }
    out
}

/// Luma mean squared errors of a block's frames, the first being frame `n`.
fn errors(decoder: &mut Decoder, packet: &[u8], n: usize) -> Result<Vec<f64>, Error> {
    let block = decoder.decode(packet, None)?;
    let mut made = Vec::new();
    for i in 0..block.frames() {
        assert_eq!(block.time(i).pts, Some((n + i) as u64 * 40_000_000));
        let (mut y, mut u, mut v) = (vec![0; W * H], vec![0; CW * CH], vec![0; CW * CH]);
        block.store(i, &mut PlanesMut { planes: [&mut y, &mut u, &mut v], strides: [W, CW, CW] })?;
        let source = &frame(n + i)[0];
        let sum: f64 = y.iter().zip(source).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
        made.push(sum / (W * H) as f64);
    }
    Ok(made)
}

#[test]
fn the_decoder_has_exactly_what_the_encoder_has() {
    for target in [28.0, 36.0, 44.0] {
        let mut e = encoder(LiveSettings { target_psnr: target, ..Default::default() }, SearchMethod::Regression, 24);
        let packets = encode(&mut e, 48);
        let mut d = decoder(&e, None);
        for (i, (p, of_encoder)) in packets.iter().enumerate() {
            let made = errors(&mut d, &p.data, 2 * i).unwrap();
            let of_decoder = psnr(made.iter().sum::<f64>() / made.len() as f64);
            assert!((of_decoder - of_encoder).abs() < 1e-9, "block {i} at {target} dB: {of_decoder} and {of_encoder}");
        }
        let keys: Vec<_> = packets.iter().enumerate().filter(|(_, p)| p.0.key).map(|(i, _)| i).collect();
        assert!(keys.starts_with(&[0, 12]) && keys.len() <= 4, "{keys:?}");
    }
}

#[test]
fn counts_are_read_without_a_graph() {
    let mut e = encoder(LiveSettings { target_psnr: 44.0, ..Default::default() }, SearchMethod::Regression, 24);
    let packets = encode(&mut e, 24);
    let mut reader = CountReader::new(&Bundle::builtin().unwrap(), e.sequence_header()).unwrap();
    let cells = reader.geometry().cells();
    let mut sum = |data: &[u8], layers: usize| {
        let block = reader.read(data, layers).unwrap();
        assert_eq!((block.counts.len(), &block.damage), (cells, &None));
        assert!(block.layers <= layers);
        block.counts.iter().map(|&c| u64::try_from(c).unwrap()).sum::<u64>()
    };
    let mut all = 0;
    for (p, _) in &packets {
        all += sum(&p.data, 5);
        // what is cut off the block counts as what is not read
        assert_eq!(sum(&p.data, 1), sum(thin(&p.data, 1).unwrap(), 5));
        assert!(sum(&p.data, 1) <= sum(&p.data, 2));
    }
    assert_eq!(all, e.stats().tokens);
    let (first, _) = &packets[0];
    assert!(sum(&first.data, 1) < sum(&first.data, 5), "a key block at 44 dB has more than one layer");
    let mut broken = first.data.to_vec();
    let end = broken.len() - 1;
    broken[end] ^= 1;
    let block = reader.read(&broken, 5).unwrap();
    assert!(block.damage.is_some() && block.layers < 4);
    assert!(matches!(reader.read(&broken[..8], 5), Err(Error::Malformed(_))));
}

#[test]
fn threads_and_the_loop_graph_change_no_byte() {
    let stream = |drift_free: bool, threads: usize, loop_graph: bool| {
        let mut bundle = (*Bundle::builtin().unwrap()).clone();
        assert!(bundle.loop_graph.is_some());
        bundle.loop_graph = bundle.loop_graph.filter(|_| loop_graph);
        let live = LiveSettings { target_psnr: 42.0, ..Default::default() };
        let mut e = Encoder::new(EncoderConfig {
            bundle: bundle.into(),
            runtime: RuntimeConfig { threads, ..runtime() },
            drift_free,
            ..config(live, SearchMethod::Regression, 16)
        });
        encode(e.as_mut().unwrap(), 20).into_iter().map(|(p, psnr)| (p.data, psnr.to_bits())).collect::<Vec<_>>()
    };
    for drift_free in [false, true] {
        let whole = stream(drift_free, 1, false);
        assert!(stream(drift_free, 1, true) == whole, "loop graph, drift-free: {drift_free}");
        for threads in [2, 3] {
            assert!(stream(drift_free, threads, true) == whole, "{threads} threads, drift-free: {drift_free}");
        }
    }
}

#[test]
fn what_is_decoded_meanwhile_changes_no_byte() {
    let bitrate = |bitrate| LiveSettings { rate_control: RateControl::Bitrate, bitrate, ..Default::default() };
    let quality = |target_psnr| LiveSettings { target_psnr, ..Default::default() };
    for [first, second] in [[bitrate(300), bitrate(120)], [quality(38.0), quality(42.0)], [quality(40.0), bitrate(200)]] {
        let stream = |threads: usize, waits: bool| {
            let runtime = RuntimeConfig { threads, ..runtime() };
            let mut e = Encoder::new(EncoderConfig { runtime, ..config(first, SearchMethod::Regression, 0) }).unwrap();
            let mut packets = Vec::new();
            for n in 0..20 {
                match n {
                    8 => e.set_live(second).unwrap(),
                    13 => {
                        packets.extend(e.drain().unwrap());
                        e.hurry_key();
                    }
                    _ => {}
                }
                packets.extend(push(&mut e, n));
                if waits {
                    e.settle().unwrap();
                }
            }
            let picture = e.reconstruction(1).unwrap().unwrap().to_vec();
            e.settle().unwrap();
            (packets, e.stats().psnr, e.stats().mean_psnr, picture)
        };
        let alone = stream(1, true);
        assert!(alone.1.is_some_and(|psnr| psnr > 30.0));
        for waits in [false, true] {
            assert!(stream(2, waits) == alone, "{first:?} waits: {waits}");
        }
    }
}

#[test]
fn a_block_that_is_decoded_meanwhile_can_be_cancelled() {
    let canceller = Canceller::default();
    let runtime = RuntimeConfig { threads: 2, canceller: Some(canceller.clone()), ..runtime() };
    let live = LiveSettings::default();
    let mut e = Encoder::new(EncoderConfig { runtime, ..config(live, SearchMethod::Regression, 0) }).unwrap();
    for n in (0..40).step_by(2) {
        assert!(push(&mut e, n).is_none());
        let key = push(&mut e, n + 1).unwrap().key;
        canceller.cancel();
        let ended = e.settle();
        assert!(matches!(ended, Ok(()) | Err(Error::Cancelled)), "{ended:?}");
        canceller.resume();
        if ended.is_err() {
            assert!(push(&mut e, n).is_none());
            assert!(push(&mut e, n + 1).unwrap().key);
        } else {
            assert_eq!(key, n == 0);
        }
    }
    push(&mut e, 40);
    push(&mut e, 41);
    drop(e); // while it decodes
}

#[test]
fn every_layer_adds_quality() {
    // fine steps: coarser ones leave layers out
    let mut e = encoder(LiveSettings { target_psnr: 46.0, ..Default::default() }, SearchMethod::Regression, 0);
    let packets = encode(&mut e, 12);
    let mean = |layers: usize, cut: bool| {
        let mut d = decoder(&e, (!cut).then_some(layers));
        let all: Vec<f64> = packets
            .iter()
            .enumerate()
            .flat_map(|(i, (p, _))| errors(&mut d, if cut { thin(&p.data, layers).unwrap() } else { &p.data }, 2 * i).unwrap())
            .collect();
        psnr(all.iter().sum::<f64>() / all.len() as f64)
    };
    let cut: Vec<_> = (1..=4).map(|l| mean(l, true)).collect();
    assert!(cut.windows(2).all(|w| w[0] + 1.0 < w[1]), "{cut:?}");
    assert_eq!(cut, (1..=4).map(|l| mean(l, false)).collect::<Vec<_>>(), "max_layers is the same as cutting");
}

#[test]
fn a_partial_block_has_the_frames_it_has() {
    let mut e = encoder(LiveSettings::default(), SearchMethod::Regression, 0);
    let packets = encode(&mut e, 5);
    assert_eq!(packets.iter().map(|p| p.0.frames).collect::<Vec<_>>(), [2, 2, 1]);
    let mut d = decoder(&e, None);
    let frames: usize = packets.iter().enumerate().map(|(i, p)| errors(&mut d, &p.0.data, 2 * i).unwrap().len()).sum();
    assert_eq!(frames, 5);
    assert!(e.drain().unwrap().is_none());
}

#[test]
fn a_scene_begins_a_block() {
    // frame 40 is another scene; where a key block is due every two frames, there is no room for what is left of the block
    for (first, key_int_max, sizes) in
        [(37, 0, vec![2, 1, 2, 2]), (39, 0, vec![1, 2, 2]), (39, 2, vec![2, 2, 1]), (38, 0, vec![2, 2, 2])]
    {
        let mut e = encoder(LiveSettings::default(), SearchMethod::Regression, key_int_max);
        let mut d = None;
        let (mut n, mut found) = (first, Vec::new());
        let mut packets: Vec<_> = (first..44).filter_map(|i| push(&mut e, i)).collect();
        packets.extend(e.drain().unwrap());
        for packet in packets {
            let d = d.get_or_insert_with(|| decoder(&e, None));
            for mse in errors(d, &packet.data, n).unwrap() {
                assert!(psnr(mse) > 33.0, "{first}: {} dB", psnr(mse));
            }
            n += packet.frames as usize;
            found.push(packet.frames);
        }
        assert_eq!((found, n), (sizes, 44), "from frame {first}");
    }
}

#[test]
fn missing_reordered_and_foreign_blocks_wait_for_a_key_block() {
    let mut e = encoder(LiveSettings::default(), SearchMethod::Regression, 6);
    let packets = encode(&mut e, 24);
    let mut d = decoder(&e, None);
    assert!(matches!(errors(&mut d, &packets[1].0.data, 2), Err(Error::ContextLost(_))), "no key block yet");
    assert!(errors(&mut d, &packets[0].0.data, 0).is_ok());
    assert!(matches!(errors(&mut d, &packets[2].0.data, 4), Err(Error::ContextLost(_))), "one is missing");
    assert!(matches!(errors(&mut d, &packets[1].0.data, 2), Err(Error::ContextLost(_))), "too late");
    assert!(errors(&mut d, &packets[3].0.data, 6).is_ok(), "a key block");
    assert!(matches!(errors(&mut d, &packets[7].0.data, 14), Err(Error::ContextLost(_))), "of another key block");
    assert!(errors(&mut d, &packets[9].0.data, 18).is_ok());
    d.reset();
    assert!(matches!(errors(&mut d, &packets[10].0.data, 20), Err(Error::ContextLost(_))));
    assert_eq!(d.stats().refused, 5);
}

#[test]
fn damage_is_reported_or_refused_but_never_more() {
    let mut e = encoder(LiveSettings { target_psnr: 44.0, ..Default::default() }, SearchMethod::Regression, 1);
    let packets = encode(&mut e, 4);
    let data = &packets[0].0.data;
    let mut d = decoder(&e, None);
    let mut seen = [0; 3];
    for at in (0..data.len()).step_by(7) {
        let mut broken = data.to_vec();
        broken[at] ^= 1 << (at % 8);
        match d.decode(&broken, None) {
            Ok(block) => seen[usize::from(block.damaged().is_some())] += 1,
            Err(_) => seen[2] += 1,
        }
        let cut = d.decode(&data[..at], None).is_ok();
        assert!(!cut || at > 6);
    }
    assert_eq!(seen[0], 0, "every flipped bit is noticed");
    assert!(seen[1] > 0 && seen[2] > 0, "{seen:?}");
    let mut foreign = e.sequence_header().clone();
    foreign.fingerprint[3] ^= 4;
    let config = DecoderConfig {
        bundle: Bundle::builtin().unwrap(),
        runtime: runtime(),
        header: foreign,
        max_layers: None,
        limits: Limits::default(),
    };
    assert!(matches!(Decoder::new(config), Err(Error::Model(m)) if m.contains("model property")));
}

#[test]
fn searches_that_decode_meet_the_target() {
    let live = LiveSettings { target_psnr: 35.0, ..Default::default() };
    let made = |search| {
        let mut e = encoder(live, search, 0);
        encode(&mut e, 6).iter().map(|p| p.1).collect::<Vec<_>>()
    };
    let (binary, full) = (made(SearchMethod::Binary), made(SearchMethod::Full));
    for (b, f) in binary.iter().zip(&full) {
        assert!((35.0..37.0).contains(b) && (35.0..37.0).contains(f), "{binary:?} {full:?}");
    }
}

#[test]
fn the_bitrate_follows_the_setting() {
    let mut e = encoder(
        LiveSettings { rate_control: RateControl::Bitrate, bitrate: 200, ..Default::default() },
        SearchMethod::Regression,
        0,
    );
    let rate = |packets: &[(Packet, f64)]| {
        packets.iter().map(|p| p.0.data.len() * 8).sum::<usize>() as f64 / packets.len() as f64 * 12.5 / 1000.0
    };
    let first: Vec<_> = encode(&mut e, 38);
    let high = rate(&first[7..]);
    e.set_live(LiveSettings { rate_control: RateControl::Bitrate, bitrate: 60, ..Default::default() }).unwrap();
    let second: Vec<_> = encode(&mut e, 38);
    let low = rate(&second[7..]);
    assert!((140.0..260.0).contains(&high) && (40.0..80.0).contains(&low), "{high} and {low} kbit/s");
    assert!(e.set_live(LiveSettings { bitrate: 0, ..Default::default() }).is_err());
}

#[test]
fn the_number_of_layers_is_the_streams_choice() {
    let bundle = Bundle::builtin().unwrap();
    for (layers, ratio, depth) in [(1, 2.0, 1), (2, 4.0, 2), (3, 1.5, 3), (4, 2.0, 4), (5, 1.5, 5)] {
        let live = LiveSettings { target_psnr: 46.0, ..Default::default() };
        let base = config(live, SearchMethod::Regression, 0);
        let mut e = Encoder::new(EncoderConfig { layers, layer_ratio: ratio, ..base }).unwrap();
        let header = e.sequence_header().clone();
        assert_eq!((u32::from(header.layers), header.layer_ratio), (layers, (8.0 * ratio.log2()).round() as u8));
        let packets = encode(&mut e, 4);
        let block = Block::parse(&packets[1].0.data, header.block_length).unwrap();
        assert_eq!(block.segments().count(), depth, "{layers} layers, ratio {ratio}");
        assert_eq!(TokenReader::new(&bundle, &header).unwrap().shape().tokens, layers as usize * 768);
        let mut d = decoder(&e, None);
        for (i, (p, of_encoder)) in packets.iter().enumerate() {
            let made = errors(&mut d, &p.data, 2 * i).unwrap();
            assert!((psnr(made.iter().sum::<f64>() / made.len() as f64) - of_encoder).abs() < 1e-9);
        }
    }
    let wrong = |layers, layer_ratio| {
        let base = config(LiveSettings::default(), SearchMethod::Regression, 0);
        Encoder::new(EncoderConfig { layers, layer_ratio, ..base }).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(
        wrong(6, 2.0).contains("layers 6") && wrong(4, 1.0).contains("layer-ratio 1") && wrong(4, 4.5).contains("layer-ratio")
    );
    assert!(wrong(4, f64::NAN).contains("layer-ratio") && wrong(4, 0.5).contains("layer-ratio 0.5"));
}

#[test]
fn the_first_layer_holds_a_bitrate_of_its_own() {
    let live = LiveSettings { target_psnr: 42.0, base_bitrate: 40, ..Default::default() };
    let mut e = encoder(live, SearchMethod::Regression, 0);
    let rates = |packets: &[(Packet, f64)]| {
        let rate = |bytes: usize| bytes as f64 * 8.0 / packets.len() as f64 * 12.5 / 1000.0;
        let first = packets.iter().map(|p| thin(&p.0.data, 1).unwrap().len()).sum();
        (rate(first), rate(packets.iter().map(|p| p.0.data.len()).sum()))
    };
    let quality = |packets: &[(Packet, f64)]| packets.iter().map(|p| p.1).sum::<f64>() / packets.len() as f64;
    let high = encode(&mut e, 38);
    e.set_live(LiveSettings { base_bitrate: 20, ..live }).unwrap();
    let low = encode(&mut e, 38);
    let ((first_high, all_high), (first_low, all_low)) = (rates(&high[7..]), rates(&low[7..]));
    assert!((30.0..50.0).contains(&first_high) && (14.0..26.0).contains(&first_low), "{first_high} and {first_low} kbit/s");
    assert!(first_high * 1.5 < all_high && first_low * 3.0 < all_low, "of {all_high} and {all_low} kbit/s");
    assert!([high, low].iter().all(|p| (41.0..43.5).contains(&quality(&p[7..]))), "the whole stream still holds its quality");
    assert!(e.set_live(LiveSettings { base_bitrate: 3_000_000, ..live }).is_err());
}

#[test]
fn thinned_receivers_have_the_pictures_of_the_encoders_loops() {
    for (layer_ratio, base_bitrate) in [(2.0, 0), (0.0, 0), (0.0, 20)] {
        let live = LiveSettings { target_psnr: 44.0, base_bitrate, ..Default::default() };
        thinned_receivers_have_the_pictures_of(EncoderConfig { layer_ratio, ..config(live, SearchMethod::Regression, 16) });
    }
}

fn thinned_receivers_have_the_pictures_of(config: EncoderConfig) {
    let named = config.layer_ratio == 0.0;
    let mut e = Encoder::new(config).unwrap();
    let mut bases = Vec::new();
    let mut decoders: Vec<_> = (1..=4).map(|_| decoder(&e, None)).collect();
    let (aligned_width, aligned_height) = (W.next_multiple_of(16), H.next_multiple_of(16));
    for n in 0..24 {
        let Some(packet) = push(&mut e, n) else { continue };
        let header = Block::parse(&packet.data, 2).unwrap().header().clone();
        assert!(header.left_out < 2, "{header:?}");
        bases.extend(header.base_quantiser);
        for (layers, d) in (1..).zip(&mut decoders) {
            let block = d.decode(thin(&packet.data, layers).unwrap(), None).unwrap();
            let loops = e.reconstruction(layers).unwrap().unwrap().chunks_exact(aligned_width * aligned_height * 3 / 2);
            for (i, ours) in loops.enumerate() {
                let (mut y, mut u, mut v) = (vec![0; W * H], vec![0; CW * CH], vec![0; CW * CH]);
                block.store(i, &mut PlanesMut { planes: [&mut y, &mut u, &mut v], strides: [W, CW, CW] }).unwrap();
                let rows = ours.chunks_exact(aligned_width).take(H);
                assert!(y.chunks_exact(W).zip(rows).all(|(y, row)| *y == row[..W]), "frame {n}, {layers} layers");
            }
        }
    }
    assert_eq!(!bases.is_empty(), named, "blocks name their base quantisers: {bases:?}");
}

#[test]
fn coarse_quantisers_leave_coarse_layers_out() {
    let depth = |target_psnr: f64| {
        let mut e = encoder(LiveSettings { target_psnr, ..Default::default() }, SearchMethod::Regression, 0);
        let packets = encode(&mut e, 2);
        let left_out = Block::parse(&packets[0].0.data, 2).unwrap().header().left_out;
        assert_eq!(
            (e.stats().left_out_layers, e.stats().block_layers),
            (left_out.into(), (4 - left_out).into()),
            "{target_psnr} dB"
        );
        4 - left_out
    };
    let depths = [22.0, 28.0, 32.0, 46.0].map(depth);
    assert!(depths.is_sorted() && depths[0] == 1 && depths[3] == 4, "{depths:?}");
}

#[test]
fn statistics_have_the_rates_of_the_layers() {
    let live = LiveSettings { target_psnr: 42.0, ..Default::default() };
    let mut e = encoder(live, SearchMethod::Regression, 0);
    let mut decoders = [decoder(&e, None), decoder(&e, Some(2))];
    assert_eq!(
        (e.stats().layer_bitrates.as_slice(), decoders[1].stats().layer_bitrates.as_slice()),
        (&[0.0; 4][..], &[0.0; 4][..])
    );
    let packets = encode(&mut e, 60);
    // 13 blocks of 0.08 s are the fewest that make a second.
    let mut rates = [0.0; 4];
    for (packet, _) in &packets[packets.len() - 13..] {
        let mut before = Block::parse(&packet.data, 2).unwrap().header_bytes();
        for (layers, rate) in (1..).zip(&mut rates) {
            let end = thin(&packet.data, layers).unwrap().len();
            *rate += (end - before) as f64 * 8.0 / (13.0 * 0.08);
            before = end;
        }
    }
    let close = |rates: &[f64], of: &[f64]| rates.len() == of.len() && rates.iter().zip(of).all(|(a, b)| (a - b).abs() < 1e-3);
    assert!(rates[0] > 1e3 && close(&e.stats().layer_bitrates, &rates), "{:?} and {rates:?}", e.stats().layer_bitrates);
    for (packet, _) in &packets {
        for decoder in &mut decoders {
            decoder.decode(&packet.data, None).unwrap();
        }
    }
    let [all, two] = decoders.each_ref().map(|d| d.stats());
    assert!(close(&all.layer_bitrates, &rates), "{:?}", all.layer_bitrates);
    assert!(close(&two.layer_bitrates, &[rates[0], rates[1], 0.0, 0.0]), "{:?}", two.layer_bitrates);
    assert_eq!((all.block_layers, two.block_layers, two.left_out_layers), (e.stats().block_layers, 2, e.stats().left_out_layers));
}

#[test]
fn receivers_of_fewer_layers_do_not_drift() {
    // what the first layer alone is worth at the end of a stream, against what it was after the key block
    let change = |drift_free: bool| {
        let live = LiveSettings { target_psnr: 40.0, ..Default::default() };
        let mut e = Encoder::new(EncoderConfig { layers: 2, drift_free, ..config(live, SearchMethod::Regression, 0) }).unwrap();
        let packets = encode(&mut e, 40);
        let mut d = decoder(&e, Some(1));
        let base: Vec<f64> = (0..).zip(&packets).map(|(i, (p, _))| psnr(errors(&mut d, &p.data, 2 * i).unwrap()[0])).collect();
        assert!(base.iter().zip(&packets).all(|(base, (_, whole))| base < whole), "{base:?}");
        base[16..].iter().sum::<f64>() / 4.0 - base[1..5].iter().sum::<f64>() / 4.0
    };
    let (drifting, free) = (change(false), change(true));
    assert!(free > drifting + 1.0 && free > -1.0, "change over the stream: {drifting:.2} dB drifting, {free:.2} dB without");
}

#[test]
fn an_encoder_that_cannot_keep_up_leaves_out_upper_layers() {
    let live = LiveSettings { target_psnr: 42.0, ..Default::default() };
    let layers = |p: &Packet| (1..).find(|&n| thin(&p.data, n).unwrap().len() == p.data.len()).unwrap();
    let load = |share: f64, late| Load { late, coding: 0.08 * share, span: 0.08 };
    // Too much for the machine from block 10 to 30; there is a scene cut at block 20.
    let run = |slow: bool| {
        let config = EncoderConfig { layers: 2, drift_free: true, ..config(live, SearchMethod::Regression, 0) };
        let mut e = Encoder::new(config).unwrap();
        let mut blocks = Vec::new();
        for n in 0..200 {
            let Some(p) = push(&mut e, n) else { continue };
            e.settle().unwrap();
            blocks.push((layers(&p), p.key, f64::from(e.stats().quantiser), e.stats().psnr.unwrap(), p));
            e.note_load(if slow && (10..30).contains(&blocks.len()) { load(1.2, 0.1) } else { load(0.3, -0.05) });
        }
        (e, blocks)
    };
    let ((e, blocks), (_, usual)) = (run(true), run(false));
    let counts: Vec<_> = blocks.iter().map(|b| b.0).collect();
    let (shed, back) = (counts.iter().position(|&n| n == 1).unwrap(), counts.iter().rposition(|&n| n == 1).unwrap() + 1);
    assert!((11..16).contains(&shed) && counts[..shed].iter().all(|&n| n == 2), "{counts:?}");
    assert!(counts[shed..back].iter().all(|&n| n == 1) && counts[back..].iter().all(|&n| n == 2), "{counts:?}");
    assert!(back > 30 + 40 && blocks[back].1, "back with a key block after four calm seconds: {back}");
    assert_eq!((e.stats().shed_layers, e.stats().shed_blocks), (0, (back - shed) as u64));
    // The layers that are left stay about as fine as they were: their receivers get no more bits than before. Rate control that
    // knew nothing of what is missing would go 15 and more indices lower.
    let mean = |blocks: &[(usize, bool, f64, f64, Packet)]| blocks.iter().map(|b| b.2).sum::<f64>() / blocks.len() as f64;
    let (less, all) = (mean(&blocks[shed..back]), mean(&usual[shed..back]));
    assert!((less - all).abs() < 5.0, "quantiser {less} with layers left out, {all} without");
    // A receiver of the first layer sees no difference: what it decodes is what the encoder has.
    let mut d = decoder(&e, Some(1));
    for (n, (_, _, _, of_encoder, p)) in blocks.iter().enumerate() {
        let made = errors(&mut d, &p.data, 2 * n).unwrap();
        let made = psnr(made.iter().sum::<f64>() / made.len() as f64);
        assert!(!(shed..back).contains(&n) || (made - of_encoder).abs() < 1e-9, "block {n}: {made} and {of_encoder}");
    }
    // One loop for all layers: nothing to be gained.
    let config = EncoderConfig { drift_free: false, ..config(live, SearchMethod::Regression, 0) };
    let mut e = Encoder::new(config).unwrap();
    push(&mut e, 0);
    push(&mut e, 1).unwrap();
    for _ in 0..100 {
        assert!(!e.note_load(load(2.0, 1.0)));
    }
}

#[test]
fn decoders_cost_nothing_before_a_key_block() {
    let encoder = encoder(LiveSettings::default(), SearchMethod::Regression, 0);
    let config = |width, height, limits| DecoderConfig {
        bundle: Bundle::builtin().unwrap(),
        runtime: runtime(),
        header: SequenceHeader { width, height, ..encoder.sequence_header().clone() },
        max_layers: None,
        limits,
    };
    // Sizes that no machine of the tests could decode all of: nothing is allocated.
    let decoders: Vec<_> = (0..200).map(|i| Decoder::new(config(4096 - i % 2, 2304, Limits::default())).unwrap()).collect();
    assert!(decoders.iter().all(|d| d.provider() == "none" && d.is_waiting() && d.block().frames() == 0));
    let Err(Error::Limit(message)) = Decoder::new(config(8192, 8192, Limits::default())) else { panic!("accepted") };
    assert!(message.contains("max-pixels"), "{message}");
    assert!(Decoder::new(config(8192, 8192, Limits::FORMAT)).is_ok());
    // what is known without a graph is an error at once
    for provider in [ExecutionProvider::Cuda, ExecutionProvider::TensorRt] {
        let mut gpu = config(64, 64, Limits::default());
        gpu.runtime.provider = provider;
        match Decoder::new(gpu) {
            Err(Error::Runtime(message)) => assert!(message.contains("libonnxruntime_providers"), "{message}"),
            Err(other) => panic!("{other}"),
            Ok(decoder) => assert_eq!(decoder.provider(), "none"),
        }
    }
}

#[test]
fn a_bundle_that_does_not_fit_is_an_error_at_the_first_key_block() {
    let mut encoder = encoder(LiveSettings::default(), SearchMethod::Regression, 0);
    let packets = [push(&mut encoder, 0), push(&mut encoder, 1)];
    let packet = packets.iter().flatten().next().unwrap();
    let mut bundle = (*Bundle::builtin().unwrap()).clone();
    bundle.decoder = b"not a graph".as_slice().into();
    let header = encoder.sequence_header().clone();
    let config = DecoderConfig { bundle: bundle.into(), runtime: runtime(), header, max_layers: None, limits: Limits::default() };
    let mut decoder = Decoder::new(config).unwrap();
    for ahead in [false, true, true, false] {
        if ahead {
            decoder.open_ahead(None).unwrap();
        }
        assert!(matches!(decoder.decode(&packet.data, None), Err(Error::Model(m)) if m.contains("does not load")));
    }
    // and a block that is damaged beyond use opens nothing
    let mut damaged = packet.data.to_vec();
    damaged[Block::parse(&packet.data, 2).unwrap().header_bytes() + 6] ^= 1;
    assert!(matches!(decoder.decode(&damaged, None), Err(Error::Malformed(_))));
}

#[test]
fn quantisers_beyond_the_largest_are_refused() {
    let mut encoder = encoder(LiveSettings::default(), SearchMethod::Regression, 0);
    let mut decoder = decoder(&encoder, None);
    let packets = [push(&mut encoder, 0), push(&mut encoder, 1)];
    let packet = packets.iter().flatten().next().unwrap();
    let block = Block::parse(&packet.data, 2).unwrap();
    let with_quantiser = |quantiser| {
        let mut out = bytes::BytesMut::new();
        let mut writer = BlockWriter::begin(&BlockHeader { quantiser, ..block.header().clone() }, 2, &mut out).unwrap();
        block.segments().for_each(|s| writer.segment(s.unwrap()));
        out
    };
    assert!(decoder.decode(&with_quantiser(87), None).is_ok());
    for quantiser in [88, 255] {
        let error = decoder.decode(&with_quantiser(quantiser), None).err();
        assert!(matches!(&error, Some(Error::Malformed(m)) if m.contains("quantiser")), "{error:?}");
    }
    assert!(decoder.decode(&packet.data, None).is_ok());
}
