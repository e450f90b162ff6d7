// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks that cannot be decoded: what the user is told, and what is requested from the sender.
//!
//! The base class can request sync points too. That is not used here. It relies on delta flags, which not every transport
//! keeps, it does not notice that a block in between is missing, and it sends a request once or with every frame.

use std::time::Instant;

use elastictok::Error;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::prelude::*;

use super::state::{CAT, ElasticTokDec};
use crate::common::{error_message, lock};
use crate::keyrequest::KeyRequest;

impl ElasticTokDec {
    /// Posts the error; one of a flush or a stop is none.
    pub(super) fn post(&self, error: &Error) -> gst::FlowError {
        if matches!(error, Error::Cancelled) {
            return gst::FlowError::Flushing;
        }
        self.post_error_message(error_message(error));
        gst::FlowError::Error
    }

    /// Tells the user when a problem begins; what follows goes to the log.
    pub(super) fn warn(&self, what: &str) {
        gst::warning!(CAT, imp = self, "{what}");
        if !std::mem::replace(&mut lock(&self.state).troubled, true) {
            gst::element_imp_warning!(self, gst::StreamError::Decode, ["{what}"]);
        }
    }

    /// Asks the sender for a key block, unless it was asked a moment ago.
    pub(super) fn ask_for_key(&self) {
        let due = lock(&self.state).key_request.due(Instant::now());
        if due {
            self.obj().sink_pad().push_event(KeyRequest::event());
        }
    }

    /// Handles a block that cannot be decoded.
    pub(super) fn refuse_block(&self, error: &Error) -> Result<gst::FlowSuccess, gst::FlowError> {
        match error {
            Error::ContextLost(_) => {
                // After the trick mode for key units there is no context, and nothing is wrong.
                if !lock(&self.state).skipped {
                    self.warn(&error.to_string());
                }
                self.ask_for_key();
                Ok(gst::FlowSuccess::Ok)
            }
            Error::Malformed(_) => {
                self.warn(&error.to_string());
                self.ask_for_key();
                gst_video::video_decoder_error!(self.obj(), 1, gst::StreamError::Decode, ["{error}"])
            }
            _ => Err(self.post(error)),
        }
    }
}
