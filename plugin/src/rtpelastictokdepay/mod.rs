// SPDX-License-Identifier: MIT OR Apache-2.0

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    pub struct RtpElasticTokDepay(ObjectSubclass<imp::RtpElasticTokDepay>)
        @extends gst_rtp::RTPBaseDepayload, gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "rtpelastictokdepay", gst::Rank::SECONDARY, RtpElasticTokDepay::static_type())
}
