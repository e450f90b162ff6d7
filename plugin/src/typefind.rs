// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recognises byte streams, by content first and by the extension `.etok`.

use elastictok::bitstream::{Probe, probe};
use gst::glib;
use gst::{TypeFind, TypeFindProbability};

use crate::common::MEDIA_TYPE;

/// The first is enough for any sequence unit; the last ones are for the shortest possible streams.
const LOOK: [u32; 5] = [256, 128, 64, 48, 40];

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    let caps = gst::Caps::builder(MEDIA_TYPE).field("stream-format", "byte-stream").build();
    TypeFind::register(Some(plugin), MEDIA_TYPE, gst::Rank::PRIMARY, Some("etok"), Some(&caps.clone()), move |find| {
        let data = LOOK.iter().find_map(|&n| find.peek(0, n).map(<[u8]>::to_vec));
        match data.as_deref().map(probe) {
            Some(Probe::Yes) => find.suggest(TypeFindProbability::Maximum, &caps),
            Some(Probe::Maybe) => find.suggest(TypeFindProbability::Possible, &caps),
            _ => {}
        }
    })
}
