// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which coefficients a cell has, in which order, and which are neighbours of which.

use super::step::Part;
use super::transform::LumaGrid;
use crate::{Error, Result};

/// Most layers a nested quantiser can have.
pub const MAX_NESTED_LAYERS: usize = 5;
const MAX_COEFFICIENTS: usize = 8192;
const MAX_CELLS: usize = 1 << 20;
/// Largest t, v or u of a coefficient: above those of any transform, and small enough for sums in 16 bits.
const MAX_FREQUENCY: u16 = 1 << 12;

/// Position classes of coefficients, on which zero flags depend.
pub const CLASSES: usize = 16;

/// Neighbouring coefficients in the graph's order, all luma or all chroma.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub range: std::ops::Range<usize>,
    pub chroma: bool,
}

fn runs(positions: impl Iterator<Item = [u16; 4]>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (i, position) in positions.enumerate() {
        let chroma = position[0] > 0;
        match runs.last_mut() {
            Some(run) if run.chroma == chroma => run.range.end = i + 1,
            _ => runs.push(Run { range: i..i + 1, chroma }),
        }
    }
    runs
}

/// Coefficients, layers and cells of a picture.
#[derive(Debug, Clone)]
pub struct NestedLayout {
    pub(super) coefficients: usize,
    pub(super) layers: usize,
    pub(super) cells_x: usize,
    pub(super) cells_y: usize,
    /// Constant term of its component, which is predicted from other cells in intra cells.
    pub(super) constant: Vec<bool>,
    /// Their indices.
    pub(super) constants: Vec<usize>,
    pub(super) chroma: Vec<bool>,
    /// Of inter and of intra cells.
    parts: [Vec<Part>; 2],
    /// Luma and chroma in the graph's order.
    pub(super) runs: Vec<Run>,
    /// Where in the order of importance the graph's coefficients are: the inverse of `slots`.
    pub(super) ranks: Vec<u16>,
    /// The graph's index of each coefficient.
    pub(super) slots: Vec<u16>,
    /// Where luma is, if its transform size is chosen for each cell.
    pub(super) luma: Option<LumaGrid>,
    positions: Vec<[u16; 4]>,
    default_classes: Vec<u8>,
    /// Per coefficient: (first, end) in `links`.
    spans: Vec<(u32, u32)>,
    links: Vec<(u16, u8)>,
}

impl NestedLayout {
    /// `positions`: (component 0..=2, t, v, u) of every coefficient, most important first, as the bundle's manifest lists them;
    /// `layers` 1..=5; `cells_x`, `cells_y`: cells of the picture.
    pub fn new(positions: &[[u16; 4]], layers: usize, cells_x: usize, cells_y: usize) -> Result<Self> {
        if positions.is_empty() || positions.len() > MAX_COEFFICIENTS {
            return Err(Error::Model(format!("{} coefficients per cell; 1..={MAX_COEFFICIENTS} can be coded", positions.len())));
        }
        if !(1..=MAX_NESTED_LAYERS).contains(&layers) {
            return Err(Error::Model(format!("{layers} layers; 1..={MAX_NESTED_LAYERS} can be coded")));
        }
        if cells_x == 0 || cells_y == 0 || cells_x.saturating_mul(cells_y) > MAX_CELLS {
            return Err(Error::Limit(format!("{cells_x}x{cells_y} cells; 1..={MAX_CELLS} can be coded: use a smaller picture")));
        }
        let mut index = std::collections::HashMap::new();
        for (i, p) in positions.iter().enumerate() {
            if index.insert(*p, i as u16).is_some() || p[0] > 2 || p[1..].iter().any(|x| *x > MAX_FREQUENCY) {
                return Err(Error::Model(format!("coefficient {i} has a position {p:?} that is taken or does not exist")));
            }
        }
        let (mut spans, mut links) = (Vec::new(), Vec::new());
        for (i, p) in positions.iter().enumerate() {
            let first = links.len() as u32;
            for (weight, q) in neighbours(*p) {
                if let Some(&j) = index.get(&q).filter(|j| usize::from(**j) > i) {
                    links.push((j, weight));
                }
            }
            spans.push((first, links.len() as u32));
        }
        Ok(Self {
            coefficients: positions.len(),
            layers,
            cells_x,
            cells_y,
            constant: positions.iter().map(|p| p[1..] == [0, 0, 0]).collect(),
            constants: (0..positions.len()).filter(|i| positions[*i][1..] == [0, 0, 0]).collect(),
            chroma: positions.iter().map(|p| p[0] > 0).collect(),
            parts: [false, true].map(|intra| positions.iter().map(|p| Part::of(*p, intra)).collect()),
            runs: runs(positions.iter().copied()),
            ranks: (0..positions.len() as u16).collect(),
            slots: (0..positions.len() as u16).collect(),
            luma: LumaGrid::new(positions, &(0..positions.len() as u16).collect::<Vec<_>>()),
            positions: positions.to_vec(),
            default_classes: positions.iter().map(|p| default_class(*p)).collect(),
            spans,
            links,
        })
    }

    /// Sets the graph's order of coefficients: `order[i]` is the graph's index of the i-th most important one.
    pub fn with_order(mut self, order: &[u16]) -> Result<Self> {
        let mut ranks = vec![None; self.coefficients];
        for (i, &slot) in order.iter().enumerate() {
            match ranks.get_mut(usize::from(slot)) {
                Some(free @ None) => *free = Some(i as u16),
                _ => {
                    return Err(Error::Model("the order of coefficients is not a permutation; export the bundle again".into()));
                }
            }
        }
        self.ranks = ranks.into_iter().flatten().collect();
        if self.ranks.len() != self.coefficients {
            return Err(Error::Model("the order of coefficients is incomplete; export the bundle again".into()));
        }
        self.runs = runs(self.ranks.iter().map(|i| self.positions[usize::from(*i)]));
        self.luma = LumaGrid::new(&self.positions, order);
        self.slots = order.to_vec();
        Ok(self)
    }

    /// Of a picture of so many cells across and down, no more than this one has.
    pub(super) fn with_size(&self, cells_x: usize, cells_y: usize) -> Self {
        Self { cells_x, cells_y, ..self.clone() }
    }

    /// The parts that the coefficients of inter or of intra cells belong to, in token order.
    #[inline]
    pub(super) fn parts_of(&self, intra: bool) -> &[Part] {
        &self.parts[usize::from(intra)]
    }

    /// Cells of the picture.
    pub fn cells(&self) -> usize {
        self.cells_x * self.cells_y
    }

    /// Where cell number `cell` lies in a grid of the cells with a border of one on every side.
    pub(super) fn place(&self, cell: usize) -> usize {
        (cell / self.cells_x + 1) * (self.cells_x + 2) + cell % self.cells_x + 1
    }

    /// Where the cells lie in that grid, in raster order.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> {
        (0..self.cells()).map(|cell| self.place(cell))
    }

    /// Coefficients of a cell.
    pub fn coefficients(&self) -> usize {
        self.coefficients
    }

    /// Layers of the quantiser.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Classes by the tables, or the default ones.
    pub fn classes(&self, trained: &[u8]) -> Result<Vec<u8>> {
        if trained.is_empty() {
            return Ok(self.default_classes.clone());
        }
        if trained.len() != self.coefficients || trained.iter().any(|c| usize::from(*c) >= CLASSES) {
            return Err(Error::Model(format!(
                "tables.bin has {} coefficient classes for {} coefficients; export the tables for this bundle",
                trained.len(),
                self.coefficients
            )));
        }
        Ok(trained.to_vec())
    }

    /// Later coefficients of the same cell that are likelier when `coefficient` is significant, with weights.
    #[inline]
    pub(super) fn links(&self, coefficient: usize) -> &[(u16, u8)] {
        let (first, end) = self.spans[coefficient];
        &self.links[first as usize..end as usize]
    }
}

/// Positions near `p` and their weights.
fn neighbours([component, t, v, u]: [u16; 4]) -> impl Iterator<Item = (u8, [u16; 4])> {
    const PLANE: [(i32, i32, u8); 12] = [
        (0, 1, 2),
        (1, 0, 2),
        (0, -1, 2),
        (-1, 0, 2),
        (1, 1, 1),
        (-1, -1, 1),
        (1, -1, 1),
        (-1, 1, 1),
        (0, 2, 1),
        (2, 0, 1),
        (0, -2, 1),
        (-2, 0, 1),
    ];
    let plane = PLANE.into_iter().filter_map(move |(dv, du, weight)| {
        let (v, u) = (i32::from(v) + dv, i32::from(u) + du);
        (v >= 0 && u >= 0).then_some((weight, [component, t, v as u16, u as u16]))
    });
    let before = t.checked_sub(1).map(|t| (2, [component, t, v, u]));
    let other_chroma = (component > 0).then_some((2, [3 - component, t, v, u]));
    plane.chain(before).chain([(2, [component, t + 1, v, u])]).chain(other_chroma)
}

/// Rough classes for untrained tables: by component, first or later frame, and octave of the spatial frequency.
fn default_class([component, t, v, u]: [u16; 4]) -> u8 {
    let octave = |limits: &[u16]| limits.iter().filter(|l| u32::from(v) + u32::from(u) >= u32::from(**l)).count() as u8;
    match (component, t) {
        (0, 0) => octave(&[1, 2, 4, 7, 12]),
        (0, _) => 6 + octave(&[1, 3, 7]),
        (_, 0) => 10 + octave(&[1, 3, 6]),
        _ => 14 + octave(&[2]),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Positions of a cell of `n` x `n` luma and chroma of half size, two frames, by frequency.
    pub fn positions(n: u16) -> Vec<[u16; 4]> {
        let mut all = Vec::new();
        for component in 0..3 {
            let n = if component == 0 { n } else { n / 2 };
            for t in 0..2 {
                for v in 0..n {
                    for u in 0..n {
                        all.push((u + v + 3 * t + 4 * component.min(1), [component, t, v, u]));
                    }
                }
            }
        }
        all.sort();
        all.into_iter().map(|p| p.1).collect()
    }

    #[test]
    fn links_lead_on_and_are_bounded() {
        let layout = NestedLayout::new(&positions(16), 3, 4, 3).expect("valid");
        assert_eq!((layout.coefficients(), layout.cells(), layout.layers()), (768, 12, 3));
        let mut sums = [0; 768];
        for i in 0..768 {
            for &(j, w) in layout.links(i) {
                assert!(usize::from(j) > i);
                sums[usize::from(j)] += 2 * w;
            }
        }
        assert!(sums.iter().all(|h| *h < 64), "sums must fit the table of classes");
        assert_eq!(layout.constant.iter().filter(|c| **c).count(), 3);
    }

    #[test]
    fn bad_layouts_are_refused() {
        let p = positions(4);
        assert!(matches!(NestedLayout::new(&[], 3, 1, 1), Err(Error::Model(_))));
        assert!(matches!(NestedLayout::new(&p, 6, 1, 1), Err(Error::Model(_))));
        assert!(matches!(NestedLayout::new(&p, 0, 1, 1), Err(Error::Model(_))));
        assert!(matches!(NestedLayout::new(&p, 1, 1 << 11, 1 << 10), Err(Error::Limit(_))));
        assert!(matches!(NestedLayout::new(&[p[0], p[0]], 1, 1, 1), Err(Error::Model(_))));
        for far in [[0, 0, u16::MAX, u16::MAX], [0, u16::MAX, 0, 0], [0, 0, 0, 4097], [3, 0, 0, 0]] {
            assert!(matches!(NestedLayout::new(&[far], 1, 1, 1), Err(Error::Model(m)) if m.contains("does not exist")));
        }
        let layout = NestedLayout::new(&p, 2, 1, 1).expect("valid");
        assert!(layout.classes(&[16; 24]).is_err() && layout.classes(&[0; 3]).is_err());
        assert!(layout.classes(&[]).is_ok());
    }
}
