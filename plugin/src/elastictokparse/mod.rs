// SPDX-License-Identifier: MIT OR Apache-2.0

use gst::glib;
use gst::prelude::*;

mod ahead;
mod imp;
mod read_ahead;
mod seek;
mod state;
mod stream;

glib::wrapper! {
    pub struct ElasticTokParse(ObjectSubclass<state::ElasticTokParse>) @extends gst_base::BaseParse, gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "elastictokparse", gst::Rank::PRIMARY + 1, ElasticTokParse::static_type())
}
