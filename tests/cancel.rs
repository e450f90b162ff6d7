// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs that are ended from another thread. The decoder graph of the bundle `endless` ends in no other way.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use common::{Rgb, runtime, tiny};
use elastictok::Error;
use elastictok::bitstream::Limits;
use elastictok::codec::{Decoder, DecoderConfig, Encoder, EncoderConfig, FrameTime, LiveSettings, RateControl, SearchMethod};
use elastictok::frame::{PlanesRef, SourceFormat};
use elastictok::runtime::{Canceller, RuntimeConfig};

const SIZE: Rgb = Rgb { width: 70, height: 45 };
/// For tests that would hang otherwise.
const MOST: Duration = Duration::from_secs(120);

fn tokens() -> LiveSettings {
    LiveSettings { rate_control: RateControl::Tokens, ..Default::default() }
}

fn runtime_with(canceller: &Canceller) -> RuntimeConfig {
    RuntimeConfig { canceller: Some(canceller.clone()), ..runtime() }
}

fn encoder(name: &str, search: SearchMethod, live: LiveSettings, canceller: &Canceller) -> Encoder {
    let config = SIZE.config(&Arc::new(tiny(name)), search, live);
    Encoder::new(EncoderConfig { runtime: runtime_with(canceller), ..config }).unwrap()
}

fn decoder(name: &str, encoder: &Encoder, canceller: &Canceller) -> Decoder {
    Decoder::new(DecoderConfig {
        bundle: Arc::new(tiny(name)),
        runtime: runtime_with(canceller),
        header: encoder.sequence_header().clone(),
        max_layers: None,
        limits: Limits::default(),
    })
    .unwrap()
}

/// Pushes a block; what became of its last frame.
fn push(encoder: &mut Encoder) -> elastictok::Result<bool> {
    let frame = SIZE.frame(0);
    let picture = PlanesRef { format: SourceFormat::Rgb, planes: [&frame, &[], &[]], strides: [SIZE.width * 3, 0, 0] };
    for _ in 0..3 {
        assert!(encoder.push(&picture, FrameTime::default())?.is_none());
    }
    Ok(encoder.push(&picture, FrameTime::default())?.unwrap().key)
}

/// Runs `work` in another thread, cancels it in the middle, and returns what it returns.
fn cancelled<T: Send + 'static>(canceller: &Canceller, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (begin, began) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    thread::spawn(move || {
        begin.send(()).unwrap();
        let _ = end.send(work());
    });
    began.recv().unwrap();
    assert!(ended.recv_timeout(Duration::from_millis(300)).is_err(), "it has no end of its own");
    canceller.cancel();
    ended.recv_timeout(MOST).expect("it goes on")
}

#[test]
fn a_search_ends_and_the_encoder_continues_with_a_key_block() {
    for search in [SearchMethod::Binary, SearchMethod::Full] {
        let canceller = Canceller::default();
        let mut e = encoder("endless", search, tokens(), &canceller);
        assert_eq!((push(&mut e).unwrap(), push(&mut e).unwrap()), (true, false), "it decodes nothing");
        e.set_live(LiveSettings::default()).unwrap();
        let (mut e, result) = cancelled(&canceller, move || {
            let result = push(&mut e);
            (e, result)
        });
        assert!(matches!(result, Err(Error::Cancelled)), "{search:?}: {result:?}");
        e.set_live(tokens()).unwrap();
        assert!(matches!(push(&mut e), Err(Error::Cancelled)), "not before it is resumed");
        canceller.resume();
        assert_eq!((push(&mut e).unwrap(), push(&mut e).unwrap()), (true, false));
        assert_eq!(e.stats().blocks, 4);
    }
}

#[test]
fn a_decoder_ends_in_its_run() {
    let canceller = Canceller::default();
    let mut e = encoder("endless", SearchMethod::Binary, tokens(), &Canceller::default());
    let packet = SIZE.push(&mut e, 0..4).remove(0);
    let mut d = decoder("endless", &e, &canceller);
    let result = cancelled(&canceller, move || d.decode(&packet.data, None).map(|_| ()));
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
}

#[test]
fn a_decoder_continues_with_a_key_block() {
    let canceller = Canceller::default();
    // Its context ends after four blocks.
    let mut e = encoder("fsq", SearchMethod::Binary, tokens(), &Canceller::default());
    let packets = SIZE.push(&mut e, 0..20);
    assert_eq!(packets.iter().map(|p| p.key).collect::<Vec<_>>(), [true, false, false, false, true]);
    // Also where it is cancelled before the first graph is loaded.
    for cancelled in 0..2 {
        let mut d = decoder("fsq", &e, &canceller);
        for p in &packets[..cancelled] {
            assert_eq!(d.decode(&p.data, None).unwrap().frames(), 4);
        }
        canceller.cancel();
        assert!(matches!(d.decode(&packets[cancelled].data, None).map(|_| ()), Err(Error::Cancelled)));
        assert_eq!((d.block().frames(), d.stats().refused), (0, 0), "nothing to show, and no fault of the stream");
        assert!(d.repeat(&packets[cancelled].data, None).is_none(), "the last picture may be overwritten");
        canceller.resume();
        assert!(matches!(d.decode(&packets[2].data, None).map(|_| ()), Err(Error::ContextLost(_))));
        assert_eq!(d.decode(&packets[4].data, None).unwrap().frames(), 4);
    }
}
