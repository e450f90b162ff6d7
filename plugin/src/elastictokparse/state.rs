// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the element is made of.

use std::sync::Mutex;

use once_cell::sync::Lazy;

use super::stream::State;
use crate::common::MaxPixels;

pub(super) static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| gst::DebugCategory::new("elastictokparse", gst::DebugColorFlags::empty(), Some("ElasticTok parser")));

#[derive(Default)]
pub struct ElasticTokParse {
    /// Never held across a call out of the element.
    pub(super) state: Mutex<State>,
    pub(super) max_pixels: MaxPixels,
}
