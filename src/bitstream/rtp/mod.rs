// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks as RTP payloads: the descriptor before each piece of a layer, splitting a block, and putting it together again.
//!
//! `docs/rtp.md` is the specification. RTP headers, clocks and sockets belong to the caller.

mod depacketizer;
mod descriptor;
mod packetizer;
#[cfg(test)]
mod tests;

pub use depacketizer::{Depacketizer, ReceiveStats, Received, RtpPacket};
pub use descriptor::{AggregatedUnits, DESCRIPTOR_BYTES, Descriptor, Payload, UNIT_PREFIX_BYTES, put_unit};
pub use packetizer::{Packetizer, Piece};

use crate::Error;

fn malformed(what: impl std::fmt::Display) -> Error {
    Error::Malformed(format!("RTP payload: {what}; drop the packet"))
}
