// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parts of the core that the tools, tests and fuzz targets of this repository reach into. Not stable: any release may change
//! or remove them.

pub use crate::codec::encoder::BlockView;
pub use crate::rate::COARSEST;

pub mod entropy {
    //! Contexts, tables and costs, for training.
    pub use crate::entropy::{BitCoder, COST_ONE_BIT, Context, ContextInit, HISTORIES, Tables, bit_cost};
}

pub mod motion {
    //! The motion search.
    pub use crate::motion::{CELL, MotionSearch, MotionStats};
}

pub mod runtime {
    //! A bundle's graphs by themselves.
    pub use crate::runtime::decoder_graph::DecoderGraph;
    pub use crate::runtime::encoder_graph::EncoderGraph;
    pub use crate::runtime::graph::{PictureOutput, Tokens, TokensMut};
}

pub mod search {
    //! The rules of ElasticTok as released.
    pub use crate::search::{FoundCounts, Official};
}

pub mod tokens {
    //! The coder of nested tokens.
    pub use crate::tokens::motion;
    pub use crate::tokens::{
        BIASES, CLASSES, CONTEXTS, Estimate, FilledCells, LayerSteps, MAX_NESTED_LAYERS, NestedEncoder, NestedLayout, Rdo,
        TransformSize, bias_index, describe, step,
    };
}

#[cfg(fuzzing)]
pub mod fuzzing {
    //! The functions of the fuzz targets.
    pub use crate::bitstream::fuzzing::{block, media, rtp, stream};
    pub use crate::codec::fuzzing::segments;
}
