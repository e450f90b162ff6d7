// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers of the entropy contexts: the probability that each bit is coded with. The order is part of the stream format.

use super::layout::CLASSES;

pub(super) const ACTIVITIES: usize = 6;
pub(super) const HINTS: usize = 4;
pub(super) const TREE_LEAVES: usize = 32;
pub(super) const INNER: usize = 8;
pub(super) const OUTER: usize = 4;
pub(super) const DENSITIES: usize = 3;
/// Classes of the neighbourhood for symbols rarer than zero flags.
pub(super) const COARSE: usize = 4;
/// Classes that choose the context of a magnitude of 1 or 2.
pub(super) const SIZES: usize = 2 * INNER;
pub(super) const UNARY: usize = 12;
pub(super) const PREFIX: usize = 16;
/// Classes of the magnitudes around, on which the magnitude of a layer-0 coefficient depends.
pub(super) const MAGNITUDES: usize = 16;
/// Flags of sizes beyond the likely ones, in layers above 0.
pub(super) const MORE: usize = 6;

/// Contexts of layer 0, or of all others, for inter or intra cells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Set(usize);

const EMPTY: usize = 0;
const TREE: usize = EMPTY + ACTIVITIES * HINTS;
const EXTRA: usize = TREE + ACTIVITIES * HINTS * TREE_LEAVES;
const ZERO: usize = EXTRA + TREE_LEAVES;
const LARGER: usize = ZERO + CLASSES * INNER * OUTER * DENSITIES;
const ESCAPE: usize = LARGER + 2 * MAGNITUDES * UNARY;
const TWO: usize = ESCAPE + PREFIX;
const MIDDLE: usize = TWO + COARSE * SIZES;
const UPPER: usize = MIDDLE + 3 * COARSE * COARSE;
const BEYOND: usize = UPPER + 3 * COARSE * COARSE;
const CONSTANT: usize = BEYOND + 2 * MORE;
const TRANSFORM: usize = CONSTANT + 6 * (1 + PREFIX);
const SET: usize = TRANSFORM + 2 * 3;

/// First context of motion.
pub(super) const MOTION: usize = 4 * SET;
/// Contexts of motion.
pub(super) const MOTION_CONTEXTS: usize = 190;

/// Number of contexts a bundle's tables must have.
pub const CONTEXTS: usize = MOTION + MOTION_CONTEXTS;

/// Names and ends of the parts of a set, for statistics.
pub(super) const PARTS: [(&str, usize); 12] = [
    ("empty cell", TREE),
    ("count", EXTRA),
    ("count, low bits", ZERO),
    ("zero flag", LARGER),
    ("magnitude, unary", ESCAPE),
    ("magnitude, escape", TWO),
    ("magnitude 1 or 2", MIDDLE),
    ("refinement, middle", UPPER),
    ("refinement, side", BEYOND),
    ("beyond", CONSTANT),
    ("constant term", TRANSFORM),
    ("transform size", SET),
];

/// (above layer 0, intra, part) of a context, or `None` for motion.
pub fn describe(context: usize) -> Option<(bool, bool, &'static str)> {
    let (set, at) = (context / SET, context % SET);
    let part = PARTS.iter().find(|p| at < p.1).map_or("", |p| p.0);
    (context < MOTION).then_some((set > 1, set % 2 == 1, part))
}

impl Set {
    pub fn new(layer: usize, intra: bool) -> Self {
        Self((2 * layer.min(1) + usize::from(intra)) * SET)
    }

    /// The contexts of inter and intra cells in a layer.
    pub fn both(layer: usize) -> std::ops::Range<usize> {
        let first = 2 * layer.min(1) * SET;
        first..first + 2 * SET
    }

    #[inline]
    pub fn empty(self, activity: usize, hint: usize) -> usize {
        self.0 + EMPTY + activity * HINTS + hint
    }

    #[inline]
    pub fn tree(self, activity: usize, hint: usize) -> usize {
        self.0 + TREE + (activity * HINTS + hint) * TREE_LEAVES
    }

    #[inline]
    pub fn extra(self, bucket: usize) -> usize {
        self.0 + EXTRA + bucket
    }

    /// See [`Neighbourhood::zero_flag`](super::neighbourhood::Neighbourhood::zero_flag).
    #[inline]
    pub fn zero(self, flag: usize) -> usize {
        self.0 + ZERO + flag
    }

    #[inline]
    pub fn larger(self, chroma: bool, magnitude_class: usize, index: usize) -> usize {
        self.0 + LARGER + (usize::from(chroma) * MAGNITUDES + magnitude_class) * UNARY + index.min(UNARY - 1)
    }

    #[inline]
    pub fn escape(self) -> usize {
        self.0 + ESCAPE
    }

    #[inline]
    pub fn two(self, class: u8, neighbourhood: usize) -> usize {
        self.0 + TWO + usize::from(class) / (CLASSES / COARSE) * SIZES + neighbourhood
    }

    /// `magnitude` >= 1: that in the layer before.
    #[inline]
    pub fn middle(self, magnitude: i32, class: u8, coarse_class: usize) -> usize {
        self.0
            + MIDDLE
            + ((magnitude.clamp(1, 3) - 1) as usize * COARSE + usize::from(class) / (CLASSES / COARSE)) * COARSE
            + coarse_class
    }

    #[inline]
    pub fn upper(self, magnitude: i32, class: u8, coarse_class: usize) -> usize {
        self.middle(magnitude, class, coarse_class) - MIDDLE + UPPER
    }

    /// Whether a size is above the likely ones, and each further step, for a refinement or a new coefficient.
    #[inline]
    pub fn beyond(self, new: bool) -> usize {
        self.0 + BEYOND + usize::from(new) * MORE
    }

    /// Zero flag of a constant term's difference; the contexts of its magnitude follow.
    #[inline]
    pub fn constant(self, chroma: bool, roughness: usize) -> usize {
        self.0 + CONSTANT + (usize::from(chroma) * 3 + roughness) * (1 + PREFIX)
    }

    /// Whether a cell's transform is smaller than 16x16, where `small` (0 to 2) of the left and the top cell's are. Three further
    /// on: whether it is 4x4.
    #[inline]
    pub fn transform(self, small: usize) -> usize {
        self.0 + TRANSFORM + small
    }
}
