// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of block: how many tokens of a layer a cell has. A bucket by a binary tree of contexts, then the place in the
//! bucket.

use super::contexts::{ACTIVITIES, HINTS, Set, TREE_LEAVES};
use crate::entropy::{BitCoder, CostTable};

/// Classes of the neighbourhood that choose the contexts of a cell's count.
#[derive(Debug, Clone, Copy)]
pub(super) struct CountContext {
    activity: usize,
    hint: usize,
}

/// Bucket of `v` = count - 1, its number of extra bits and its base: 0, 1, 2, 3, then two buckets per octave.
#[inline]
fn bucket(v: u32) -> (u32, u32) {
    if v < 4 {
        (v, 0)
    } else {
        let octave = v.ilog2();
        (2 * octave + (v >> (octave - 1) & 1), octave - 1)
    }
}

#[inline]
fn bucket_base(bucket: u32) -> (u32, u32) {
    if bucket < 4 { (bucket, 0) } else { ((2 + (bucket & 1)) << (bucket / 2 - 1), bucket / 2 - 1) }
}

fn magnitude(n: u16) -> usize {
    (16 - n.leading_zeros()) as usize
}

/// `counts`: of the cells to the left, above, above to the left and to the right.
pub(super) fn count_context(counts: [u16; 4], hint: usize) -> CountContext {
    let [left, top, top_left, top_right] = counts;
    let around = 2 * magnitude(left) + 2 * magnitude(top) + magnitude(top_left) + magnitude(top_right);
    let activity = match around {
        0 => 0,
        1..=4 => 1,
        5..=9 => 2,
        10..=17 => 3,
        18..=25 => 4,
        _ => 5,
    };
    debug_assert!(activity < ACTIVITIES && hint < HINTS);
    CountContext { activity, hint }
}

/// The hint of a cell in a layer above layer 0. `own`, `right`, `below`: counts in the layer before; `shown`: whether the cell has
/// coefficients that are not zero.
pub(super) fn hint(own: u16, right: u16, below: u16, shown: bool) -> usize {
    match own {
        0 if shown => 1,
        0 => usize::from(right > 0 || below > 0),
        1..=3 => 2,
        _ => 3,
    }
}

/// Codes a count in 0..=`most`; `None`: the stream holds a larger one.
pub(super) fn code_count<C: BitCoder>(coder: &mut C, set: Set, context: CountContext, count: u16, most: usize) -> Option<u16> {
    if !coder.bit(set.empty(context.activity, context.hint), count > 0) {
        return Some(0);
    }
    let value = u32::from(count.wrapping_sub(1));
    let wanted = bucket(value).0;
    let tree = set.tree(context.activity, context.hint);
    let (mut node, mut shift) = (1, TREE_LEAVES.ilog2());
    while shift > 0 {
        shift -= 1;
        node = 2 * node + u32::from(coder.bit(tree + node as usize, wanted >> shift & 1 == 1));
    }
    let found = node - TREE_LEAVES as u32;
    let (base, mut extra) = bucket_base(found);
    let low = value.wrapping_sub(base);
    let mut offset = 0;
    if extra > 0 {
        extra -= 1;
        offset = u32::from(coder.bit(set.extra(found as usize), low >> extra & 1 == 1)) << extra;
        offset |= coder.bypass(low & ((1 << extra) - 1), extra);
    }
    let count = base + offset + 1;
    (count as usize <= most).then_some(count as u16)
}

/// Cost of a count in 1/256 bit before adaptation.
pub(super) fn count_cost(costs: &CostTable, set: Set, context: CountContext, count: u16) -> u32 {
    let empty = set.empty(context.activity, context.hint);
    if count == 0 {
        return costs.bit(empty, false);
    }
    let (wanted, extra) = bucket(u32::from(count) - 1);
    let tree = set.tree(context.activity, context.hint);
    let mut total = costs.bit(empty, true) + 256 * extra;
    let mut node = 1;
    for shift in (0..TREE_LEAVES.ilog2()).rev() {
        let bit = wanted >> shift & 1;
        total += costs.bit(tree + node, bit == 1);
        node = 2 * node + bit as usize;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_tile_the_counts() {
        let mut next = 0;
        for b in 0..32 {
            let (base, extra) = bucket_base(b);
            assert_eq!(base, next);
            assert_eq!(bucket(base), (b, extra));
            assert_eq!(bucket(base + (1 << extra) - 1), (b, extra));
            next = base + (1 << extra);
        }
        assert_eq!(next, 1 << 16);
    }
}
