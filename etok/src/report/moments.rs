// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which moments of a stream are worth a picture.

use crate::scan::BlockInfo;

/// How much of the stream lies between two moments at the least.
const APART: f64 = 0.04;

/// Up to `n` blocks, in order: from the one of the fewest tokens to that of the most, at even ranks, not too near each other.
/// Key blocks, which cost more whatever they show, only where there is nothing else.
pub fn choose(blocks: &[BlockInfo], n: usize) -> Vec<usize> {
    let usable = |key: bool| move |(_, b): &(usize, &BlockInfo)| b.decodes && b.tokens.is_some() && (key || !b.key);
    let mut ranked: Vec<_> = blocks.iter().enumerate().filter(usable(false)).collect();
    if ranked.len() < n {
        ranked = blocks.iter().enumerate().filter(usable(true)).collect();
    }
    ranked.sort_by_key(|(i, b)| (b.tokens, *i));
    let apart = (blocks.len() as f64 * APART) as usize;
    let mut chosen: Vec<usize> = Vec::new();
    for k in 0..n.min(ranked.len()) {
        let wanted = if n == 1 { ranked.len() / 2 } else { k * (ranked.len() - 1) / (n - 1) };
        // the nearest in rank that is far enough from the others in time
        let free = |rank: &usize| chosen.iter().all(|c| c.abs_diff(ranked[*rank].0) > apart);
        if let Some(rank) = (0..ranked.len()).filter(free).min_by_key(|r| r.abs_diff(wanted)) {
            chosen.push(ranked[rank].0);
        }
    }
    chosen.sort_unstable();
    chosen
}

/// Blocks to decode for the pictures of `moments`: those from the key block before each on.
pub fn needed(blocks: &[BlockInfo], moments: &[usize]) -> Vec<bool> {
    let mut wanted = vec![false; blocks.len()];
    for &m in moments {
        let from = blocks[..=m].iter().rposition(|b| b.key).unwrap_or(0);
        wanted[from..=m].fill(true);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(tokens: &[u64]) -> Vec<BlockInfo> {
        let block = |(i, &t): (usize, &u64)| BlockInfo { key: i % 50 == 0, tokens: Some(t), decodes: true, ..Default::default() };
        tokens.iter().enumerate().map(block).collect()
    }

    #[test]
    fn few_and_many_tokens_are_shown_apart_from_each_other() {
        let tokens: Vec<u64> =
            (0..100).map(|i| if i == 0 { 9000 } else { 100 + i * 7 % 50 + if i > 70 { 500 } else { 0 } }).collect();
        let all = blocks(&tokens);
        let chosen = choose(&all, 3);
        assert_eq!(chosen.len(), 3);
        assert!(chosen.windows(2).all(|w| w[1] - w[0] > 4) && !chosen.contains(&0));
        assert!(chosen.iter().any(|&c| tokens[c] > 600) && chosen.iter().any(|&c| tokens[c] < 110));
    }

    #[test]
    fn short_streams_show_what_they_have() {
        assert_eq!(choose(&blocks(&[5]), 3), [0]);
        assert!(choose(&[], 3).is_empty());
        assert_eq!(choose(&blocks(&[5, 6, 7]), 1).len(), 1);
    }

    #[test]
    fn decoding_begins_at_key_blocks() {
        let wanted = needed(&blocks(&[1; 120]), &[60, 110]);
        let runs: Vec<usize> = (0..120).filter(|&i| wanted[i]).collect();
        assert_eq!(runs, (50..=60).chain(100..=110).collect::<Vec<_>>());
    }
}
