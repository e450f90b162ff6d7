// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `gst-inspect-1.0` and applications are told about the plugin, and its presets.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use gst::glib;
use gst::prelude::*;

const ELEMENTS: [&str; 6] =
    ["elastictokenc", "elastictokdec", "elastictokparse", "elastictokthin", "rtpelastictokpay", "rtpelastictokdepay"];

const PRESETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/presets");

fn init() {
    static INIT: Once = Once::new();
    common::init();
    INIT.call_once(|| gst::Preset::set_app_dir(PRESETS).unwrap());
}

/// GStreamer keeps a class's presets without a lock, so tests of them take turns.
fn presets() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    init();
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn elements_and_properties_say_what_they_are() {
    init();
    for name in ELEMENTS {
        let factory = gst::ElementFactory::find(name).unwrap();
        for key in ["long-name", "klass", "description", "author"] {
            let value = factory.metadata(key).unwrap_or_default();
            assert!(value.len() > 5, "{name} has no {key}: {value:?}");
        }
        assert!(factory.metadata("long-name").unwrap().starts_with("ElasticTok"));
        assert_eq!(factory.num_pad_templates(), 2, "{name}");
        let element = factory.create().build().unwrap();
        for property in element.list_properties().iter().filter(|p| p.owner_type() == element.type_()) {
            let (nick, blurb) = (property.nick(), property.blurb().unwrap_or_default());
            assert!(
                nick.starts_with(|c: char| c.is_uppercase()) && nick != property.name(),
                "{name}: {}: {nick}",
                property.name()
            );
            assert!(blurb.len() > 10 && blurb != nick && !blurb.ends_with('.'), "{name}: {}: {blurb}", property.name());
            if property.flags().contains(glib::ParamFlags::READABLE) {
                element.property_value(property.name());
            }
        }
    }
}

/// The values that a property must take and give back: its ends, its default, and what lies between where that is named.
fn values(property: &glib::ParamSpec) -> Vec<glib::Value> {
    macro_rules! ends {
        ($($spec:ty),*) => {
            $(if let Some(p) = property.downcast_ref::<$spec>() {
                return vec![p.minimum().to_value(), p.maximum().to_value(), p.default_value().to_value()];
            })*
        };
    }
    ends!(glib::ParamSpecInt, glib::ParamSpecUInt, glib::ParamSpecInt64, glib::ParamSpecUInt64, glib::ParamSpecDouble);
    let default = property.default_value().clone();
    if let Some(class) = glib::EnumClass::with_type(property.value_type()) {
        let all = class.values().iter().map(|v| class.to_value(v.value()).unwrap());
        return all.chain([default]).collect();
    }
    match property.value_type() {
        glib::Type::BOOL => vec![true.to_value(), false.to_value(), default],
        glib::Type::STRING => vec!["some text".to_value(), default],
        flags if flags.is_a(glib::Type::FLAGS) => vec![default],
        other => panic!("{}: teach this test about values of type {other}", property.name()),
    }
}

#[test]
fn types_of_properties_are_documented_with_the_plugin() {
    init();
    let mut types = Vec::new();
    for name in ELEMENTS {
        let element = gst::ElementFactory::make(name).build().unwrap();
        for property in element.list_properties().iter().filter(|p| p.owner_type() == element.type_()) {
            let kind = property.value_type();
            if kind.is_a(glib::Type::ENUM) || kind.is_a(glib::Type::FLAGS) {
                assert_eq!(kind.plugin_api_flags(), Some(gst::PluginAPIFlags::empty()), "{name}: {}: {kind}", property.name());
                types.push(kind.name());
            }
        }
    }
    types.sort_unstable();
    types.dedup();
    assert_eq!(
        types,
        [
            "GstElasticTokEncRateControl",
            "GstElasticTokEncSearch",
            "GstElasticTokExecutionProvider",
            "GstRtpElasticTokPayAggregateMode"
        ]
    );
}

#[test]
fn every_property_takes_its_whole_range_and_gives_it_back() {
    init();
    for name in ELEMENTS {
        let element = gst::ElementFactory::make(name).build().unwrap();
        let (mut written, mut read) = (0, 0);
        for property in element.list_properties().iter() {
            let (key, flags) = (property.name(), property.flags());
            if !flags.contains(glib::ParamFlags::READABLE) {
                continue;
            }
            let before = element.property_value(key);
            assert!(before.type_().is_a(property.value_type()), "{name}: {key} is of type {}", before.type_());
            if !flags.contains(glib::ParamFlags::WRITABLE) {
                if property.owner_type() != element.type_() {
                    continue;
                }
                // Without a getter it would be the default, which is none.
                let stats = before.get::<Option<gst::Structure>>();
                assert!(matches!(stats, Ok(Some(_))), "{name}: {key} has no value: {before:?}");
                read += 1;
                continue;
            }
            if property.value_type().is_a(glib::Type::OBJECT) {
                // The parent, which is gst::Object's.
                assert_ne!(property.owner_type(), element.type_(), "{name}: {key}: teach this test about objects");
                continue;
            }
            let text = |value: &glib::Value| format!("{:?}", value.serialize().unwrap());
            if property.owner_type() == element.type_() {
                assert_eq!(text(&before), text(property.default_value()), "{name}: {key} of a new element is its default");
            }
            for value in values(property) {
                if key == "name" && matches!(value.get::<Option<&str>>(), Ok(None)) {
                    continue;
                }
                element.set_property_from_value(key, &value);
                assert_eq!(text(&element.property_value(key)), text(&value), "{name}: {key}");
            }
            written += u32::from(property.owner_type() == element.type_());
        }
        let own = element.list_properties().iter().filter(|p| p.owner_type() == element.type_()).count();
        assert_eq!((written + read) as usize, own, "{name}: properties of its own");
        assert_eq!(element.current_state(), gst::State::Null);
    }
}

#[test]
fn presets_set_what_they_say() {
    let _turn = presets();
    let file = std::fs::read_to_string(format!("{PRESETS}/GstElasticTokEnc.prs")).unwrap();
    let encoder = || gst::ElementFactory::make("elastictokenc").build().unwrap();
    let names: Vec<_> = encoder().dynamic_cast::<gst::Preset>().unwrap().preset_names().iter().map(|n| n.to_string()).collect();
    let mut section = String::new();
    let (mut presets, mut properties) = (Vec::new(), 0);
    for line in file.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            presets.extend((section != "_presets_").then(|| section.clone()));
        } else if let Some((key, value)) = line.split_once('=').filter(|_| section != "_presets_") {
            let element = encoder();
            let preset = element.dynamic_cast_ref::<gst::Preset>().unwrap();
            if let Some(meta) = key.strip_prefix("_meta/") {
                assert_eq!(preset.meta(&section, meta).unwrap(), value);
                continue;
            }
            preset.load_preset(&section).unwrap();
            let other = encoder();
            other.set_property_from_str(key, value);
            let text = |e: &gst::Element| e.property_value(key).serialize().unwrap();
            assert_eq!(text(&element), text(&other), "{section}: {key}");
            properties += 1;
        }
    }
    assert!(presets.iter().all(|p| names.contains(p)), "{names:?}");
    assert_eq!((presets.len(), properties), (3, 12));
}

#[test]
fn a_preset_encodes() {
    let _turn = presets();
    let p = gst::parse::launch(
        "videotestsrc num-buffers=6 ! video/x-raw,width=96,height=64 ! elastictokenc name=enc threads=1 ! elastictokdec threads=1 ! fakesink name=out",
    )
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    p.by_name("enc").unwrap().dynamic_cast::<gst::Preset>().unwrap().load_preset("archive").unwrap();
    p.set_state(gst::State::Playing).unwrap();
    let message = p
        .bus()
        .unwrap()
        .timed_pop_filtered(gst::ClockTime::from_seconds(120), &[gst::MessageType::Eos, gst::MessageType::Error])
        .unwrap();
    p.set_state(gst::State::Null).unwrap();
    assert!(matches!(message.view(), gst::MessageView::Eos(_)), "{message:?}");
}
