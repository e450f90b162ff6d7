// SPDX-License-Identifier: MIT OR Apache-2.0
#![doc = "GStreamer elements for ElasticTok streams: `elastictokenc`, `elastictokdec`, `elastictokparse`, `elastictokthin`, `rtpelastictokpay`, `rtpelastictokdepay` and a typefinder."]
// `plugin_define!` makes undocumented items.
#![allow(missing_docs)]

use gst::glib;

mod caps;
mod common;
mod elastictokdec;
mod elastictokenc;
mod elastictokparse;
mod elastictokthin;
mod framemetas;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod keyrequest;
mod logging;
mod rtpelastictokdepay;
mod rtpelastictokpay;
#[cfg(test)]
mod testing;
mod typefind;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    logging::forward();
    framemetas::register();
    // ONNX Runtime may lie beside the plugin.
    if let Some(directory) = plugin.filename().as_deref().and_then(std::path::Path::parent) {
        elastictok::runtime::set_search_directory(directory.to_owned());
    }
    elastictokenc::register(plugin)?;
    elastictokdec::register(plugin)?;
    elastictokparse::register(plugin)?;
    elastictokthin::register(plugin)?;
    rtpelastictokpay::register(plugin)?;
    rtpelastictokdepay::register(plugin)?;
    typefind::register(plugin)
}

gst::plugin_define!(
    elastictok,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MIT/X11",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_REPOSITORY"),
    env!("BUILD_REL_DATE")
);
