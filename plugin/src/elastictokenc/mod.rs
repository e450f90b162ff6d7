// SPDX-License-Identifier: MIT OR Apache-2.0

use gst::glib;
use gst::prelude::*;

mod imp;
mod settings;
mod stats;

glib::wrapper! {
    pub struct ElasticTokEnc(ObjectSubclass<imp::ElasticTokEnc>) @extends gst_video::VideoEncoder, gst::Element, gst::Object, @implements gst::Preset;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "elastictokenc", gst::Rank::NONE, ElasticTokEnc::static_type())
}
