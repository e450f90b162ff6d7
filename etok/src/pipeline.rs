// SPDX-License-Identifier: MIT OR Apache-2.0
//! GStreamer pipelines: starting, running to the end or to Ctrl-C, and errors in words that help.

mod error;

use std::cell::RefCell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use gst::prelude::*;

use crate::cli::ModelArgs;
use crate::failure::{self, Exit};
use error::Missing;
pub use error::NO_VIDEO;
pub use error::text as error_text;

/// How often Ctrl-C was pressed.
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

/// How often progress is shown.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(100);

/// Starts GStreamer with the elements of this build, whatever plugin is installed.
pub fn init() -> anyhow::Result<()> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        gst::init().map_err(|e| e.to_string())?;
        // The library may lie beside this program, or in lib beside its folder.
        let program = std::env::current_exe().ok();
        if let Some(folder) = program.as_deref().and_then(std::path::Path::parent) {
            elastictok::runtime::set_search_directory(folder.to_owned());
        }
        gstelastictok::plugin_register_static().map_err(|e| e.to_string())
    });
    started.as_ref().map_err(|e| anyhow::anyhow!("GStreamer does not start: {e}")).copied()
}

/// From now on Ctrl-C asks for an end; the second time, it is one.
pub fn catch_interrupts() -> anyhow::Result<()> {
    static CAUGHT: OnceLock<Result<(), String>> = OnceLock::new();
    let handler = || {
        if INTERRUPTS.fetch_add(1, Ordering::Relaxed) > 0 {
            std::process::exit(Exit::Interrupted as i32);
        }
    };
    let caught = CAUGHT.get_or_init(|| ctrlc::set_handler(handler).map_err(|e| e.to_string()));
    caught.as_ref().map_err(|e| anyhow::anyhow!("cannot catch Ctrl-C: {e}")).copied()
}

fn interrupted() -> bool {
    INTERRUPTS.load(Ordering::Relaxed) > 0
}

/// An element; where there is none, the error says which package has it.
pub fn make(factory: &str) -> anyhow::Result<gst::Element> {
    require(factory)?;
    gst::ElementFactory::make(factory).build().map_err(|e| failure::missing(format!("element {factory} does not start: {e}")))
}

/// Whether an element is installed.
pub fn has(factory: &str) -> bool {
    gst::ElementFactory::find(factory).is_some()
}

/// Refuses where an element is not installed.
pub fn require(factory: &str) -> anyhow::Result<()> {
    if has(factory) {
        return Ok(());
    }
    let what = match error::package(factory) {
        Some(package) => format!("install it with: apt install {package}"),
        None => format!("gst-inspect-1.0 {factory} should know it"),
    };
    Err(failure::missing(format!("GStreamer element {factory} is not installed; {what}")))
}

/// A part of a pipeline, in gst-launch's words.
pub fn bin(description: &str) -> anyhow::Result<gst::Element> {
    gst::parse::bin_from_description(description, true)
        .map(gst::Element::from)
        .map_err(|e| failure::missing(format!("cannot make '{description}': {}", e.message())))
}

/// Sets how `element` runs its model.
pub fn set_model(element: &gst::Element, args: &ModelArgs) {
    element.set_property("model", &args.model);
    element.set_property("threads", args.threads);
    element.set_property_from_str("execution-provider", args.provider.nick());
}

/// Why a pipeline ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Finished,
    Interrupted,
}

/// A pipeline that is stopped whatever happens.
pub struct Pipeline(gst::Pipeline, RefCell<Missing>);

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

impl std::ops::Deref for Pipeline {
    type Target = gst::Pipeline;

    fn deref(&self) -> &gst::Pipeline {
        &self.0
    }
}

impl Pipeline {
    pub fn new() -> anyhow::Result<Self> {
        init()?;
        Ok(Self(gst::Pipeline::new(), RefCell::default()))
    }

    /// Adds elements and links them in order.
    pub fn chain(&self, elements: &[&gst::Element]) -> anyhow::Result<()> {
        self.0.add_many(elements).context("elements of a pipeline")?;
        gst::Element::link_many(elements).context("elements of a pipeline do not fit")
    }

    /// Sets the pipeline going.
    pub fn start(&self) -> anyhow::Result<()> {
        if self.0.set_state(gst::State::Playing).is_err() {
            self.check()?;
            return Err(failure::with(Exit::Failed, "the pipeline does not start"));
        }
        Ok(())
    }

    /// The error that stands on the bus, if one does.
    pub fn check(&self) -> anyhow::Result<()> {
        let bus = self.0.bus().context("a pipeline has a bus")?;
        let mut missing = self.1.borrow_mut();
        while let Some(message) = bus.pop() {
            missing.note(&message);
            if let Some(error) = error::fatal(&message, &missing) {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Runs to the end. Ctrl-C ends the stream at `front`'s sink pad, so that what follows is finished properly, or stops at
    /// once where there is no `front`. `tick` is called about ten times a second, `warn` with what elements complain of.
    pub fn run(
        &self,
        front: Option<&gst::Element>,
        mut tick: impl FnMut(&gst::Pipeline),
        mut warn: impl FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<End> {
        catch_interrupts()?;
        self.start()?;
        let bus = self.0.bus().context("a pipeline has a bus")?;
        let mut ending = false;
        let mut missing = self.1.borrow_mut();
        loop {
            if interrupted() && !ending {
                let Some(pad) = front.and_then(|f| f.static_pad("sink")) else { return Ok(End::Interrupted) };
                ending = true;
                // before the first picture there is nothing to finish
                if pad.current_caps().is_none() || !pad.send_event(gst::event::Eos::new()) {
                    return Ok(End::Interrupted);
                }
            }
            let Some(message) = bus.timed_pop(TICK) else {
                tick(&self.0);
                continue;
            };
            missing.note(&message);
            if let Some(error) = error::fatal(&message, &missing) {
                return Err(error);
            }
            match message.view() {
                gst::MessageView::Eos(_) => break,
                gst::MessageView::Warning(w) => warn(&error::text(&w.error(), w.debug().as_deref()))?,
                gst::MessageView::Latency(_) => {
                    let _ = self.0.recalculate_latency();
                }
                _ => {}
            }
        }
        tick(&self.0);
        Ok(if ending { End::Interrupted } else { End::Finished })
    }
}

/// Checks that `model` is there before anything is opened or written.
pub fn check_model(model: &ModelArgs) -> anyhow::Result<std::sync::Arc<elastictok::bundle::Bundle>> {
    Ok(elastictok::bundle::Bundle::resolve(&model.model)?)
}
