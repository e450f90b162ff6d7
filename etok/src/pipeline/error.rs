// SPDX-License-Identifier: MIT OR Apache-2.0
//! From GStreamer's messages to errors that name cause and remedy.

use gst::glib;
use gst::prelude::*;

use crate::failure::{self, Exit};

/// Name of the message that tells of an input without pictures.
pub const NO_VIDEO: &str = "etok-no-video";

/// Debian's package of an element.
pub fn package(factory: &str) -> Option<&'static str> {
    Some(match factory {
        "filesrc" | "fdsrc" | "capsfilter" | "identity" | "queue" | "tee" => "libgstreamer1.0-0",
        "decodebin" | "uridecodebin" | "videoconvert" | "videoscale" | "videorate" | "videotestsrc" | "appsink" => {
            "gstreamer1.0-plugins-base"
        }
        "videoflip" | "deinterlace" | "matroskamux" | "mp4mux" | "multifilesink" | "pngenc" | "autovideosink" | "v4l2src"
        | "souphttpsrc" | "vp9enc" | "y4menc" => "gstreamer1.0-plugins-good",
        "h264parse" | "h265parse" | "av1parse" | "y4mdec" | "x265enc" | "av1enc" | "av1dec" | "curlhttpsrc" => {
            "gstreamer1.0-plugins-bad"
        }
        "x264enc" => "gstreamer1.0-plugins-ugly",
        name if name.starts_with("av") => "gstreamer1.0-libav",
        _ => return None,
    })
}

/// What decoders and demuxers were asked for in vain.
#[derive(Debug, Default)]
pub struct Missing(Vec<String>);

impl Missing {
    pub fn note(&mut self, message: &gst::Message) {
        if let gst::MessageView::Element(element) = message.view()
            && let Some(s) = element.structure().filter(|s| s.name() == "missing-plugin")
            && let Ok(name) = s.get::<String>("name")
            && !self.0.contains(&name)
        {
            self.0.push(name);
        }
    }

    fn remedy(&self) -> String {
        format!(
            "GStreamer has no {}; install more decoders: apt install gstreamer1.0-libav gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly",
            self.0.join(", no ")
        )
    }

    /// The input holds no pictures that can be decoded, but `found`.
    pub fn no_video(&self, found: &str) -> anyhow::Error {
        let video = self.0.iter().any(|name| !name.to_lowercase().contains("audio"));
        if video {
            return failure::missing(self.remedy());
        }
        let found = if found.is_empty() { "nothing that can be decoded" } else { found };
        failure::input(format!("the input has no video, only {found}; only pictures can be encoded"))
    }
}

/// An error's text with the detail that elements leave for debugging, where there is any.
pub fn text(error: &glib::Error, debug: Option<&str>) -> String {
    let message = error.message().trim_end_matches('.');
    // "file.c(12): function (): /path/of/element:", then what the element has to say
    let detail = debug.and_then(|d| d.split_once('\n')).map_or("", |(_, detail)| detail.trim().trim_end_matches('.'));
    let generic = message.starts_with("GStreamer e") || message.starts_with("Internal ") || message.starts_with("Could not");
    match (detail, generic) {
        ("", _) => message.into(),
        (detail, _) if detail.contains(message) => detail.into(),
        (detail, true) if !detail.starts_with("streaming stopped") => detail.into(),
        (detail, _) => format!("{message} ({detail})"),
    }
}

/// What of a message ends the work, if it does.
pub fn fatal(message: &gst::Message, missing: &Missing) -> Option<anyhow::Error> {
    match message.view() {
        gst::MessageView::Error(e) => Some(describe(e, missing)),
        gst::MessageView::Application(a) => {
            let s = a.structure().filter(|s| s.name() == NO_VIDEO)?;
            Some(missing.no_video(s.get::<&str>("found").unwrap_or_default()))
        }
        _ => None,
    }
}

/// An error message as an error of this program.
fn describe(error: &gst::message::Error, missing: &Missing) -> anyhow::Error {
    let (glib, debug) = (error.error(), error.debug());
    let factory = error.src().and_then(|s| s.downcast_ref::<gst::Element>()).and_then(gst::Element::factory);
    let name = factory.map(|f| f.name().to_string()).unwrap_or_default();
    let text = text(&glib, debug.as_deref());
    if !missing.0.is_empty() || glib.matches(gst::CoreError::MissingPlugin) || glib.matches(gst::StreamError::CodecNotFound) {
        return failure::missing(if missing.0.is_empty() { text } else { missing.remedy() });
    }
    let own = name.starts_with("elastictok");
    let exit = match () {
        () if glib.matches(gst::LibraryError::Init) || (own && glib.matches(gst::ResourceError::NotFound)) => Exit::Missing,
        () if glib.matches(gst::LibraryError::Settings) => Exit::Usage,
        () if name.ends_with("sink") && glib.is::<gst::ResourceError>() => Exit::Output,
        () if glib.is::<gst::StreamError>() || glib.is::<gst::ResourceError>() => Exit::Input,
        () => Exit::Failed,
    };
    let text = match glib.kind::<gst::StreamError>() {
        Some(gst::StreamError::TypeNotFound) => "GStreamer does not recognise it as video or other media".into(),
        Some(gst::StreamError::Failed) if name.ends_with("src") => {
            format!("nothing can be read; check the address and the connection ({text})")
        }
        _ => text,
    };
    failure::with(exit, if own || name.is_empty() { text } else { format!("{name}: {text}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_stands_in_for_generic_messages() {
        let debug = "imp.rs(1): fn (): /GstPipeline:p/GstX:x:\nthe model takes I420";
        let generic = glib::Error::new(gst::CoreError::Negotiation, "GStreamer encountered a problem");
        assert_eq!(text(&generic, Some(debug)), "the model takes I420");
        let own = glib::Error::new(gst::StreamError::Decode, "block 7 is broken.");
        assert_eq!(text(&own, None), "block 7 is broken");
        let stopped = "x.c(2): loop (): /GstPipeline:p/GstX:x:\nstreaming stopped, reason not-linked (-1)";
        let flow = glib::Error::new(gst::StreamError::Failed, "Internal data stream error.");
        assert_eq!(text(&flow, Some(stopped)), "Internal data stream error (streaming stopped, reason not-linked (-1))");
    }

    #[test]
    fn sound_alone_is_told_from_a_missing_decoder() {
        let mut missing = Missing::default();
        missing.0.push("MPEG-4 AAC audio decoder".into());
        assert_eq!(failure::exit_of(&missing.no_video("audio/mpeg")), Exit::Input);
        missing.0.push("H.266 decoder".into());
        let error = missing.no_video("");
        assert_eq!(failure::exit_of(&error), Exit::Missing);
        assert!(error.to_string().contains("apt install"));
    }
}
