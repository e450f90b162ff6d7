// SPDX-License-Identifier: MIT OR Apache-2.0

use gst::glib;
use gst::prelude::*;

mod blocks;
mod deadline;
mod imp;
mod keys;
mod load;
mod open;
mod settings;
mod state;
mod stats;
mod timer;
mod times;

use crate::common::Provider;

glib::wrapper! {
    pub struct ElasticTokEnc(ObjectSubclass<state::ElasticTokEnc>) @extends gst_video::VideoEncoder, gst::Element, gst::Object, @implements gst::Preset;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    for api in [Provider::static_type(), settings::Control::static_type(), settings::Search::static_type()] {
        api.mark_as_plugin_api(gst::PluginAPIFlags::empty());
    }
    // encodebin takes no encoder of a lower rank. It is found by its caps only, so it is never used unless its format was
    // asked for.
    gst::Element::register(Some(plugin), "elastictokenc", gst::Rank::MARGINAL, ElasticTokEnc::static_type())
}
