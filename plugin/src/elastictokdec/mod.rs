// SPDX-License-Identifier: MIT OR Apache-2.0

use gst::glib;
use gst::prelude::*;

mod format;
mod imp;
mod packets;
mod pictures;
mod state;
mod stats;
mod trouble;

use crate::common::Provider;

glib::wrapper! {
    pub struct ElasticTokDec(ObjectSubclass<state::ElasticTokDec>) @extends gst_video::VideoDecoder, gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    Provider::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    gst::Element::register(Some(plugin), "elastictokdec", gst::Rank::PRIMARY, ElasticTokDec::static_type())
}
