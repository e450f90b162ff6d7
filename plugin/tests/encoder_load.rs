// SPDX-License-Identifier: MIT OR Apache-2.0
//! An encoder that cannot keep up, by a clock that the tests drive.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use gst::glib::subclass::prelude::*;
use gst::prelude::*;

mod clock {
    use std::sync::Mutex;
    use std::time::Instant;

    use gst::glib;
    use gst::subclass::prelude::*;

    /// Goes so many times as fast as time does.
    pub struct FakeClock(Mutex<(Instant, u64, u64)>);

    impl Default for FakeClock {
        fn default() -> Self {
            Self(Mutex::new((Instant::now(), 0, 0)))
        }
    }

    impl FakeClock {
        fn now(&self) -> u64 {
            let (since, speed, at) = *self.0.lock().unwrap();
            at + since.elapsed().as_nanos() as u64 * speed
        }

        pub fn set_speed(&self, speed: u64) {
            let now = self.now();
            *self.0.lock().unwrap() = (Instant::now(), speed, now);
        }
    }

    #[glib::object_subclass]
    impl ObjectSubclass for FakeClock {
        const NAME: &'static str = "ElasticTokTestClock";
        type Type = super::FakeClock;
        type ParentType = gst::Clock;
    }

    impl ObjectImpl for FakeClock {}
    impl GstObjectImpl for FakeClock {}
    impl ClockImpl for FakeClock {
        fn internal_time(&self) -> gst::ClockTime {
            gst::ClockTime::from_nseconds(self.now())
        }
    }
}

gst::glib::wrapper! {
    pub struct FakeClock(ObjectSubclass<clock::FakeClock>) @extends gst::Clock, gst::Object;
}

/// The encoder on a clock that stands still at first.
struct Stream {
    harness: gst_check::Harness,
    clock: FakeClock,
    bus: gst::Bus,
    caps: gst::Caps,
    frames: u64,
}

impl Stream {
    fn new(live: bool, settings: &str) -> Self {
        let caps = raw_caps("I420", 96, 64, (25, 1));
        let mut harness =
            encoder(&caps, "packetized", &format!("target-psnr=46 key-int-max=0 drift-free=true layers=2 {settings}"));
        if live {
            harness.set_live(true);
            harness.set_upstream_latency(gst::ClockTime::ZERO);
        } else {
            harness.set_live(false);
        }
        let (clock, bus) = (gst::glib::Object::new::<FakeClock>(), gst::Bus::new());
        harness.play();
        let element = harness.element().unwrap();
        element.set_clock(Some(&clock)).unwrap();
        element.set_base_time(gst::ClockTime::ZERO);
        element.set_bus(Some(&bus));
        Self { harness, clock, bus, caps, frames: 0 }
    }

    /// Pushes two frames that are due at `time` and after it; layers of their last block, and whether there was a key block.
    fn block(&mut self, time: gst::ClockTime) -> (usize, bool) {
        for n in 0..2 {
            let mut buffer = picture(&self.caps, self.frames);
            let b = buffer.get_mut().unwrap();
            b.set_pts(time + gst::ClockTime::from_mseconds(40 * n));
            b.set_duration(gst::ClockTime::from_mseconds(40));
            self.harness.push(buffer).unwrap();
            self.frames += 1;
        }
        let (mut layers, mut key) = (0, false);
        // Two, where the clock says that the second frame is late.
        for block in drain(&mut self.harness) {
            let data = block.map_readable().unwrap();
            layers = (1..).find(|&n| elastictok::bitstream::thin(&data, n).unwrap().len() == data.len()).unwrap();
            key |= !block.flags().contains(gst::BufferFlags::DELTA_UNIT);
        }
        assert!(layers > 0, "no block at {time}");
        (layers, key)
    }

    fn time(&self) -> gst::ClockTime {
        self.clock.time()
    }

    fn stats(&self) -> gst::Structure {
        self.harness.element().unwrap().property("stats")
    }

    /// Blocks on a clock that is so fast that any machine is too slow.
    fn overload(&mut self, blocks: usize) -> Vec<(usize, bool)> {
        self.clock.imp().set_speed(1_000_000);
        let made = (0..blocks)
            .map(|_| {
                let time = self.time();
                self.block(time)
            })
            .collect();
        self.clock.imp().set_speed(0);
        made
    }
}

#[test]
fn a_live_encoder_that_is_too_slow_sheds_layers_and_takes_them_back() {
    let mut s = Stream::new(true, "");
    let first = s.block(gst::ClockTime::ZERO);
    assert_eq!(first, (2, true));
    let slow = s.overload(40);
    assert_eq!(slow.last().unwrap().0, 1, "{slow:?}");
    assert!(s.stats().get::<u32>("shed-layers").unwrap() == 1 && s.stats().get::<u64>("shed-blocks").unwrap() > 0);
    let message = s.bus.pop_filtered(&[gst::MessageType::Qos]).expect("a message says so");
    let gst::MessageView::Qos(qos) = message.view() else { panic!() };
    let (late, proportion, quality) = qos.values();
    assert!(late > 0 && proportion > 1.0 && (1..1_000_000).contains(&quality), "{late} {proportion} {quality}");
    // The clock stands still now, so all frames come in time.
    let start = s.time();
    let calm: Vec<_> = (0..100).map(|n| s.block(start + gst::ClockTime::from_mseconds(80 * n))).collect();
    let back = calm.iter().position(|b| b.0 == 2).expect("they come back");
    assert!(back >= 40 && calm[back].1, "with a key block after four calm seconds: {calm:?}");
    assert!(calm[back..].iter().all(|b| b.0 == 2), "{calm:?}");
    assert_eq!(s.stats().get::<u32>("shed-layers"), Ok(0));
    // Whoever turns it off gets all layers back, after twice the time as they had to be shed again so soon.
    s.overload(40);
    assert_eq!(s.stats().get::<u32>("shed-layers"), Ok(1));
    s.harness.element().unwrap().set_property("qos", false);
    let start = s.time();
    (0..120).for_each(|n| assert!(s.block(start + gst::ClockTime::from_mseconds(80 * n)).0 > 0));
    assert_eq!(s.stats().get::<u32>("shed-layers"), Ok(0));
}

#[test]
fn where_nothing_is_live_or_qos_is_off_nothing_is_shed() {
    for (live, settings) in [(false, ""), (true, "qos=false")] {
        let mut s = Stream::new(live, settings);
        s.block(gst::ClockTime::ZERO);
        s.overload(40);
        assert!(!s.stats().has_field("shed-layers"), "{live} {settings}");
    }
}

#[test]
fn a_sink_that_gets_blocks_too_late_counts_where_coding_is_the_cause() {
    let mut s = Stream::new(true, "");
    s.block(gst::ClockTime::ZERO);
    let clock = s.clock.clone();
    let mut shed = |blocks: std::ops::Range<u64>, late: i64| {
        for n in blocks {
            // Frames are due a long time from now.
            let time = gst::ClockTime::from_seconds(1_000_000) + gst::ClockTime::from_mseconds(80 * n);
            let qos = gst::event::Qos::builder(gst::QOSType::Underflow, 1.5, late).timestamp(time).build();
            s.harness.push_upstream_event(qos);
            s.block(time);
        }
        s.stats().get::<u32>("shed-layers").unwrap_or(0)
    };
    let late = 50_000_000;
    assert_eq!(shed(0..40, late), 0, "on a clock that stands still, coding takes no time");
    clock.imp().set_speed(1000);
    assert_eq!(shed(40..60, -1000 * late), 0, "in time");
    assert_eq!(shed(60..100, late), 1);
}
