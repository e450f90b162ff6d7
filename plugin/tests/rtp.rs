// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rtpelastictokpay` and `rtpelastictokdepay`: packets, losses, key blocks on request, over sockets of this machine.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::*;
use elastictok::bitstream::rtp::Descriptor;
use elastictok::bitstream::thin;
use gst::prelude::*;
use gst_rtp::RTPBuffer;

const RATE: (i32, i32) = (30, 1);
const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(120);

/// Two seconds in blocks of two and three layers, a key block every 16 frames.
fn stream() -> (gst::Caps, Vec<gst::Buffer>) {
    encode(&raw_caps("I420", 160, 96, RATE), "packetized", "target-psnr=46 key-int-max=16", 60, RATE)
}

fn bytes(buffer: &gst::BufferRef) -> Vec<u8> {
    buffer.map_readable().unwrap().to_vec()
}

fn packetise(caps: &gst::Caps, blocks: &[gst::Buffer], settings: &str) -> (gst::Caps, Vec<gst::Buffer>) {
    let mut h = harness(&format!("rtpelastictokpay {settings}"));
    h.set_src_caps(caps.clone());
    blocks.iter().for_each(|b| assert!(h.push(b.copy()).is_ok()));
    h.push_event(gst::event::Eos::new());
    let packets = drain(&mut h);
    (h.sinkpad().unwrap().current_caps().unwrap(), packets)
}

fn depacketiser(caps: &gst::Caps, settings: &str) -> gst_check::Harness {
    let mut h = harness(&format!("rtpelastictokdepay {settings}"));
    h.set_src_caps(caps.clone());
    h
}

fn depacketise(caps: &gst::Caps, packets: impl IntoIterator<Item = gst::Buffer>) -> (gst::Structure, Vec<gst::Buffer>) {
    let mut h = depacketiser(caps, "");
    packets.into_iter().for_each(|p| assert!(h.push(p).is_ok()));
    h.push_event(gst::event::Eos::new());
    let blocks = drain(&mut h);
    (h.element().unwrap().property("block-stats"), blocks)
}

fn count(stats: &gst::Structure, name: &str) -> u64 {
    stats.get(name).unwrap()
}

/// The descriptor of a packet.
fn descriptor(packet: &gst::Buffer) -> Descriptor {
    let rtp = RTPBuffer::from_buffer_readable(packet).unwrap();
    Descriptor::parse(rtp.payload().unwrap()).unwrap().0
}

/// Sequence numbers as a middlebox rewrites them.
fn renumber(packets: Vec<gst::Buffer>) -> Vec<gst::Buffer> {
    let number = |(n, p): (usize, gst::Buffer)| {
        let mut p = p.copy_deep().unwrap();
        RTPBuffer::from_buffer_writable(p.make_mut()).unwrap().set_seq(n as u16);
        p
    };
    packets.into_iter().enumerate().map(number).collect()
}

#[test]
fn blocks_and_their_times_pass() {
    let (caps, blocks) = stream();
    for mtu in [100, 300, 1200, 65_000] {
        for mode in ["none", "zero-latency", "max"] {
            let (rtp_caps, packets) = packetise(&caps, &blocks, &format!("mtu={mtu} aggregate-mode={mode}"));
            assert!(packets.iter().all(|p| p.size() <= mtu), "{mtu} {mode}");
            let (stats, got) = depacketise(&rtp_caps, packets.iter().cloned());
            assert!(got.iter().map(|b| bytes(b)).eq(blocks.iter().map(|b| bytes(b))), "{mtu} {mode}");
            for (got, block) in got.iter().zip(&blocks) {
                let off = got.pts().unwrap().absdiff(block.pts().unwrap());
                // The RTP clock has 11 us.
                assert!(off < gst::ClockTime::from_useconds(12), "{off} {mtu} {mode}");
                let delta = |b: &gst::Buffer| b.flags().contains(gst::BufferFlags::DELTA_UNIT);
                assert_eq!(delta(got), delta(block));
            }
            assert_eq!(count(&stats, "whole"), blocks.len() as u64);
            let layers = blocks.iter().zip(0..).map(|(b, _)| bytes(b)).filter(|b| thin(b, 1).unwrap().len() < b.len()).count();
            match (mode, mtu) {
                ("none", 65_000) => assert!(packets.len() >= blocks.len() + layers && layers > 10),
                ("zero-latency", 65_000) => assert_eq!(packets.len(), blocks.len()),
                ("max", 65_000) => assert!(packets.len() < blocks.len()),
                _ => {}
            }
        }
    }
}

#[test]
fn packets_say_what_they_are() {
    let (caps, blocks) = stream();
    let (caps, packets) = packetise(&caps, &blocks, "");
    let said = caps.structure(0).unwrap();
    assert_eq!((said.get("encoding-name"), said.get("clock-rate")), (Ok("ELASTICTOK"), Ok(90_000)));
    assert_eq!(said.get("rtcp-fb-nack-pli"), Ok(true));
    let mut markers = 0;
    for packet in &packets {
        assert!(packet.size() <= 1200, "the default mtu");
        let d = descriptor(packet);
        let has = |flag| packet.flags().contains(flag);
        assert_eq!(has(gst::BufferFlags::NON_DROPPABLE), d.layer == 0);
        assert_eq!(has(gst::BufferFlags::DROPPABLE), d.layer > 0);
        assert_eq!(has(gst::BufferFlags::DELTA_UNIT), !d.key);
        assert_eq!(d.header, d.key && d.layer == 0 && d.fragment == 0);
        let rtp = RTPBuffer::from_buffer_readable(packet).unwrap();
        assert_eq!(rtp.is_marker(), d.end && d.layer + 1 == d.layers);
        markers += usize::from(rtp.is_marker());
    }
    assert_eq!(markers, blocks.len());
}

#[test]
fn headers_in_band_follow_config_interval() {
    let (caps, blocks) = stream();
    let headers = |interval: &str| {
        let (_, packets) = packetise(&caps, &blocks, &format!("config-interval={interval}"));
        packets.iter().map(descriptor).filter(|d| d.header).count()
    };
    // Key blocks are at 0, 0.53, 1.07 and 1.6 s.
    assert_eq!([headers("-1"), headers("0"), headers("1")], [4, 0, 2]);
    let mut config = packetise(&caps, &blocks, "config-interval=0");
    let (_, got) = depacketise(&config.0, config.1.iter().cloned());
    assert_eq!(got.len(), blocks.len(), "config in caps is enough");
    config.0.make_mut().remove_field("config");
    assert!(depacketise(&config.0, config.1).1.is_empty());
}

#[test]
fn the_decoder_learns_the_format_before_the_key_block_is_whole() {
    let (caps, blocks) = stream();
    let (mut rtp_caps, packets) = packetise(&caps, &blocks[..1], "mtu=300");
    rtp_caps.make_mut().remove_field("config");
    let mut h = depacketiser(&rtp_caps, "");
    assert!(packets.len() > 3);
    h.push(packets[0].clone()).unwrap();
    assert_eq!(h.buffers_in_queue(), 0);
    let said = |h: &gst_check::Harness| h.sinkpad().unwrap().current_caps();
    let early = said(&h).expect("caps");
    assert_eq!(early.structure(0).unwrap().get("width"), Ok(160));
    packets[1..].iter().for_each(|p| assert!(h.push(p.clone()).is_ok()));
    assert_eq!((h.buffers_in_queue(), said(&h)), (1, Some(early)));
    let events = std::iter::from_fn(|| h.try_pull_event()).filter(|e| e.type_() == gst::EventType::Caps);
    assert_eq!(events.count(), 1);
}

trait RemoveField {
    fn remove_field(&mut self, name: &str);
}

impl RemoveField for gst::CapsRef {
    fn remove_field(&mut self, name: &str) {
        self.structure_mut(0).unwrap().remove_field(name);
    }
}

#[test]
fn a_middlebox_thins_as_elastictokthin_does() {
    let (caps, blocks) = stream();
    let (rtp_caps, packets) = packetise(&caps, &blocks, "");
    let kept: Vec<_> = packets.into_iter().filter(|p| descriptor(p).layer == 0).collect();
    let (stats, got) = depacketise(&rtp_caps, renumber(kept));
    assert!(got.iter().map(|b| bytes(b)).eq(blocks.iter().map(|b| thin(&bytes(b), 1).unwrap().to_vec())));
    let layered = blocks.iter().filter(|b| thin(&bytes(b), 1).unwrap().len() < b.size()).count() as u64;
    assert_eq!((count(&stats, "thinned"), count(&stats, "impaired")), (layered, 0));
}

#[test]
fn a_loss_counts_where_sequence_numbers_are_written_anew() {
    let (caps, blocks) = stream();
    let (rtp_caps, packets) = packetise(&caps, &blocks, "");
    // The upper layer of a key block: taken for dropped on the way, it would be missed to the end of the group.
    let lost = packets.iter().position(|p| descriptor(p).layer > 0).unwrap();
    assert!(descriptor(&packets[lost]).key);
    let mut h = depacketiser(&rtp_caps, "");
    for (n, packet) in
        renumber(packets.iter().enumerate().filter(|p| p.0 != lost).map(|p| p.1.clone()).collect()).into_iter().enumerate()
    {
        if n == lost {
            // As rtpulpfecdec passes it on.
            let event = gst::Structure::builder("GstRTPPacketLost").field("might-have-been-fec", true).build();
            h.push_event(gst::event::CustomDownstream::new(event));
        }
        assert!(h.push(packet).is_ok());
    }
    let got = drain(&mut h);
    assert!(got.iter().skip(1).map(|b| bytes(b)).eq(blocks.iter().skip(1).map(|b| bytes(b))));
    let stats: gst::Structure = h.element().unwrap().property("block-stats");
    assert_eq!((count(&stats, "impaired"), count(&stats, "thinned"), count(&stats, "lost")), (1, 0, 0));
}

#[test]
fn lost_upper_layers_never_freeze() {
    let (caps, blocks) = stream();
    let (rtp_caps, packets) = packetise(&caps, &blocks, "mtu=200");
    for every in [2, 3, 7] {
        let mut upper = 0;
        let kept = packets.iter().filter(|p| {
            upper += usize::from(descriptor(p).layer > 0);
            descriptor(p).layer == 0 || upper % every != 0
        });
        let mut h = harness("rtpelastictokdepay ! elastictokdec execution-provider=cpu threads=1");
        h.set_src_caps(rtp_caps.clone());
        kept.for_each(|p| assert!(h.push(p.copy()).is_ok()));
        h.push_event(gst::event::Eos::new());
        let pictures = drain(&mut h);
        assert_eq!(pictures.len(), 60, "one in {every}");
        assert!(pictures.iter().all(|p| !p.flags().contains(gst::BufferFlags::CORRUPTED)));
    }
}

/// Pushes the packets of all blocks but some. Times of what comes out in blocks, and the requests for key blocks.
fn with_blocks_lost(settings: &str, lost: &[usize]) -> (Vec<(usize, bool)>, usize) {
    let (caps, blocks) = stream();
    let (rtp_caps, packets) = packetise(&caps, &blocks, "");
    let first = descriptor(&packets[0]).block;
    let mut h = depacketiser(&rtp_caps, settings);
    for p in packets.iter().filter(|p| !lost.contains(&descriptor(p).block.wrapping_sub(first).into())) {
        assert!(h.push(p.copy()).is_ok());
    }
    let times = drain(&mut h);
    let number = |b: &gst::Buffer| {
        ((b.pts().unwrap().nseconds() as f64 * 15e-9).round() as usize, b.flags().contains(gst::BufferFlags::DISCONT))
    };
    let requests = std::iter::from_fn(|| h.try_pull_upstream_event())
        .filter(|e| gst_video::UpstreamForceKeyUnitEvent::parse(e).is_ok())
        .count();
    (times.iter().skip(1).map(number).collect(), requests)
}

#[test]
fn a_lost_base_layer_waits_for_a_key_block_and_asks_for_one() {
    let (got, requests) = with_blocks_lost("", &[3]);
    let expected = [(1, false), (2, false), (8, true)].into_iter().chain((9..30).map(|n| (n, false)));
    assert_eq!(got, expected.collect::<Vec<_>>());
    assert!(requests >= 1);
    assert_eq!(with_blocks_lost("request-keyframe=false", &[3]).1, 0);
    assert_eq!(with_blocks_lost("wait-for-keyframe=false", &[3]).0.len(), 28);
    // The key block that follows is lost too, which its group shows: one more request at once.
    let (got, again) = with_blocks_lost("", &[3, 8]);
    assert!(got[2] == (16, true) && again > requests, "{got:?} {again}");
}

#[test]
fn hostile_packets_are_survived() {
    let (caps, blocks) = stream();
    let (rtp_caps, packets) = packetise(&caps, &blocks[..16], "mtu=150");
    let mut seed = 12_345u32;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    for round in 0..60 {
        let mut h = harness("rtpelastictokdepay ! elastictokdec execution-provider=cpu threads=1");
        h.set_src_caps(rtp_caps.clone());
        for packet in &packets {
            let mut data = bytes(packet);
            match random(6) {
                0 => data.truncate(random(data.len() + 1)),
                1 => {
                    let at = 12 + random(9);
                    data[at] = random(256) as u8;
                }
                2 => {
                    let at = random(data.len());
                    data[at] ^= 1 << random(8);
                }
                3 => data.extend(vec![0xFF; random(90)]),
                _ => {}
            }
            let mut damaged = gst::Buffer::from_slice(data);
            damaged.make_mut().set_pts(packet.pts());
            // A picture of another size or version may end the stream with an error, and nothing else may happen.
            if h.push(damaged).is_err() {
                break;
            }
        }
        let stats: gst::Structure = h
            .element()
            .unwrap()
            .downcast_ref::<gst::Bin>()
            .unwrap()
            .iterate_elements()
            .into_iter()
            .flatten()
            .find(|e| e.has_property("block-stats"))
            .unwrap()
            .property("block-stats");
        assert!(count(&stats, "refused-packets") > 0, "round {round}: {stats}");
    }
}

impl Pipeline {
    fn get(&self, name: &str) -> gst::Element {
        self.0.by_name(name).unwrap()
    }

    fn pad(&self, element: &str, pad: &str) -> gst::Pad {
        self.get(element).static_pad(pad).unwrap()
    }

    /// The port that a udpsrc took.
    fn port(&self, name: &str) -> i32 {
        self.get(name).property("port")
    }

    fn error(&self) -> Option<gst::Message> {
        self.0.bus().unwrap().pop_filtered(&[gst::MessageType::Error])
    }
}

/// Waits until `done`; fails after two minutes, and where a pipeline fails.
fn wait_for(what: &str, pipelines: &[&Pipeline], done: impl Fn() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from(PATIENCE);
    while !done() {
        assert!(std::time::Instant::now() < end, "no {what} within two minutes");
        if let Some(error) = pipelines.iter().find_map(|p| p.error()) {
            panic!("{what}: {error:?}");
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

const RTP_CAPS: &str = "application/x-rtp,media=video,clock-rate=90000,encoding-name=ELASTICTOK,payload=96,rtcp-fb-nack-pli=true";

/// A receiver over sockets that decodes, and one that sends to it. With `reuse`, its default, udpsrc can be given a port that another
/// one of this machine has.
struct Link {
    sender: Pipeline,
    receiver: Pipeline,
    pictures: Arc<AtomicUsize>,
    /// Requests that reached the encoder.
    requests: Arc<AtomicUsize>,
}

fn link(encoder: &str) -> Link {
    let receiver = Pipeline::new(&format!(
        "rtpbin name=rtp latency=50 rtp-profile=avpf udpsrc name=in port=0 reuse=false caps=\"{RTP_CAPS}\" ! rtp.recv_rtp_sink_0 rtp. \
         ! rtpelastictokdepay name=depay ! elastictokdec threads=1 ! fakesink name=out sync=false async=false \
         udpsrc name=rtcp port=0 reuse=false ! rtp.recv_rtcp_sink_0 \
         rtp.send_rtcp_src_0 ! udpsink name=back host=127.0.0.1 sync=false async=false"
    ));
    let sender = Pipeline::new(&format!(
        "rtpbin name=rtp rtp-profile=avpf videotestsrc is-live=true pattern=ball ! video/x-raw,width=160,height=96,framerate=30/1 \
         ! elastictokenc name=enc threads=1 target-psnr=44 {encoder} ! rtpelastictokpay name=pay ! rtp.send_rtp_sink_0 \
         rtp.send_rtp_src_0 ! udpsink name=out host=127.0.0.1 sync=false async=false \
         rtp.send_rtcp_src_0 ! udpsink name=rtcp host=127.0.0.1 sync=false async=false \
         udpsrc name=back port=0 reuse=false ! rtp.recv_rtcp_sink_0"
    ));
    for p in [&receiver, &sender] {
        p.0.set_state(gst::State::Ready).unwrap();
    }
    sender.get("out").set_property("port", receiver.port("in"));
    sender.get("rtcp").set_property("port", receiver.port("rtcp"));
    receiver.get("back").set_property("port", sender.port("back"));
    let pictures = Arc::new(AtomicUsize::new(0));
    let counter = pictures.clone();
    receiver.pad("out", "sink").add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    sender.pad("enc", "src").add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
        let asked = info.event().is_some_and(|e| gst_video::UpstreamForceKeyUnitEvent::parse(e).is_ok());
        counter.fetch_add(asked.into(), Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    Link { sender, receiver, pictures, requests }
}

impl Link {
    fn play(&self) {
        for p in [&self.receiver, &self.sender] {
            p.0.set_state(gst::State::Playing).unwrap();
        }
    }

    fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        wait_for(what, &[&self.sender, &self.receiver], || done(self));
    }

    fn pictures(&self) -> usize {
        self.pictures.load(Ordering::Relaxed)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

#[test]
fn a_lost_key_block_is_asked_for_until_one_comes() {
    let link = link("key-int-max=100000 qos=false");
    // Once told to, the receiver loses the base layers up to the second key block that it asked for.
    let losing = Arc::new(AtomicBool::new(false));
    let lost_keys = Arc::new(Mutex::new(Vec::new()));
    let (on, keys) = (losing.clone(), lost_keys.clone());
    link.receiver.pad("in", "src").add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(packet) = info.buffer() else { return gst::PadProbeReturn::Ok };
        let d = descriptor(packet);
        let mut keys = keys.lock().unwrap();
        let lose = on.load(Ordering::Relaxed) && d.layer == 0 && (keys.len() < 2 || keys.contains(&d.epoch));
        if lose && d.key && !keys.contains(&d.epoch) {
            keys.push(d.epoch);
        }
        if lose && !d.key && keys.len() >= 2 {
            return gst::PadProbeReturn::Ok;
        }
        if lose { gst::PadProbeReturn::Drop } else { gst::PadProbeReturn::Ok }
    });
    link.play();
    link.wait("picture", |l| l.pictures() > 10);
    losing.store(true, Ordering::Relaxed);
    link.wait("second key block lost", |_| lost_keys.lock().unwrap().len() >= 2);
    let before = link.pictures();
    link.wait("picture after the losses", |l| l.pictures() > before + 10);
    assert!(link.requests() >= 3, "{}", link.requests());
    let stats: gst::Structure = link.receiver.get("depay").property("block-stats");
    assert!(count(&stats, "lost") >= 2, "{stats}");
}

#[test]
fn a_receiver_joins_in_the_middle() {
    let link = link("key-int-max=100000");
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    link.sender.pad("pay", "src").add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |_, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    link.sender.0.set_state(gst::State::Playing).unwrap();
    link.wait("packet", |_| sent.load(Ordering::Relaxed) > 20);
    // What waits at the socket is from the start.
    let from = Arc::new(AtomicBool::new(false));
    let after = from.clone();
    let joined = Arc::new(Mutex::new(None));
    let first = joined.clone();
    let begin = sent.load(Ordering::Relaxed);
    let now = sent.clone();
    link.receiver.pad("in", "src").add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(packet) = info.buffer() else { return gst::PadProbeReturn::Ok };
        let d = descriptor(packet);
        if !after.load(Ordering::Relaxed) && (d.epoch == 0 && d.key || now.load(Ordering::Relaxed) <= begin) {
            return gst::PadProbeReturn::Drop;
        }
        after.store(true, Ordering::Relaxed);
        first.lock().unwrap().get_or_insert(d.key);
        gst::PadProbeReturn::Ok
    });
    link.receiver.0.set_state(gst::State::Playing).unwrap();
    link.wait("picture", |l| l.pictures() > 10);
    assert!(link.requests() >= 1);
}

/// An even port that is free, and so is the next one, as RTP and RTCP want them.
fn free_ports() -> u16 {
    loop {
        let rtp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = rtp.local_addr().unwrap().port();
        if port.is_multiple_of(2) && std::net::UdpSocket::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

#[test]
fn an_sdp_file_is_all_a_player_needs() {
    let (caps, blocks) = stream();
    for (plugger, headers) in [("decodebin", -1), ("decodebin3", 0), ("uridecodebin", 0), ("uridecodebin3", -1)] {
        let (caps, packets) = packetise(&caps, &blocks, &format!("config-interval={headers}"));
        let config: &str = caps.structure(0).unwrap().get("config").unwrap();
        let port = free_ports();
        let path = std::env::temp_dir().join(format!("elastictok-rtp-{}-{plugger}.sdp", std::process::id()));
        let sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video {port} RTP/AVP 96\r\n\
             a=rtpmap:96 ELASTICTOK/90000\r\na=fmtp:96 config={config}\r\n"
        );
        std::fs::write(&path, sdp).unwrap();
        let source = match plugger {
            "decodebin" | "decodebin3" => format!("filesrc location={} ! sdpdemux ! {plugger}", path.display()),
            // The demultiplexer's rank is none, so that a file alone is not enough.
            _ => format!("{plugger} uri=sdp://{}", path.display()),
        };
        let player = Pipeline::new(&format!("{source} ! fakesink name=out sync=false async=false"));
        let pictures = Arc::new(AtomicUsize::new(0));
        let counter = pictures.clone();
        player.pad("out", "sink").add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            counter.fetch_add(1, Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
        player.0.set_state(gst::State::Playing).unwrap();
        // It listens some time after; what comes before is lost, and the stream is sent round and round.
        let out = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let state = Mutex::new((0usize, 0u16));
        wait_for(&format!("picture from {plugger}"), &[&player], || {
            let (n, sequence) = &mut *state.lock().unwrap();
            let mut packet = packets[*n % packets.len()].copy_deep().unwrap();
            {
                let mut rtp = RTPBuffer::from_buffer_writable(packet.make_mut()).unwrap();
                rtp.set_seq(*sequence);
            }
            let _ = out.send_to(&bytes(&packet), ("127.0.0.1", port));
            (*n, *sequence) = (*n + 1, sequence.wrapping_add(1));
            pictures.load(Ordering::Relaxed) >= 5
        });
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn forward_error_correction_goes_by_the_packets_of_the_base_layer() {
    let (caps, blocks) = stream();
    let mut h = harness("rtpelastictokpay mtu=300 ! rtpulpfecenc pt=122 percentage=0 percentage-important=100");
    h.set_src_caps(caps);
    blocks.iter().for_each(|b| assert!(h.push(b.copy()).is_ok()));
    h.push_event(gst::event::Eos::new());
    let packets = drain(&mut h);
    let kind = |p: &gst::Buffer| RTPBuffer::from_buffer_readable(p).unwrap().payload_type();
    let (fec, media): (Vec<_>, Vec<_>) = packets.iter().partition(|p| kind(p) == 122);
    let base = media.iter().filter(|p| descriptor(p).layer == 0).count();
    assert!(base < media.len());
    assert_eq!(fec.len(), base);
}
