// SPDX-License-Identifier: MIT OR Apache-2.0
//! The inputs and outputs that a bundle's graphs must have, and checks that they have them.

use ort::value::{Outlet, TensorElementType as Type, ValueType};

use crate::bundle::{Bottleneck, Manifest};
use crate::frame::{Geometry, PixelFormat};
use crate::tokens::motion::PLANES as MOTION_PLANES;
use crate::{Error, Result};

/// Suffix of a context's output name: ONNX wants inputs and outputs of a graph to differ.
pub(super) const NEXT: &str = ".next";
/// The only context of graphs that decode bands: the frame that is predicted from.
const REFERENCE: &str = "dec.reference";
/// Largest context in bytes.
const MAX_CONTEXT: u64 = 8 << 30;

/// A named tensor with its expected type and shape.
pub(super) struct Spec {
    pub name: &'static str,
    pub ty: Type,
    pub shape: Vec<i64>,
}

/// A context as a graph declares it, with the name of its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContextSpec {
    pub name: String,
    pub ty: Type,
    pub shape: Vec<i64>,
}

impl Spec {
    /// Bytes of the tensor; `None`: contexts cannot have its type, or the number overflows.
    pub fn bytes(&self) -> Option<u64> {
        tensor_bytes(self.ty, &self.shape)
    }
}

impl ContextSpec {
    /// Bytes of the context; `None`: contexts cannot have its type, or the number overflows.
    pub fn bytes(&self) -> Option<u64> {
        tensor_bytes(self.ty, &self.shape)
    }
}

/// Every tensor other than contexts that a graph may have.
pub(super) struct Contract {
    pub frames: Spec,
    /// As the encoder graph gives them.
    pub tokens: Spec,
    /// As the decoder graph takes them.
    pub taken: Spec,
    pub counts: Spec,
    pub position: Spec,
    pub motion: Spec,
    pub rows: Spec,
    pub step: Spec,
    pub distortion: Spec,
    pub reconstruction: Spec,
}

impl Contract {
    pub fn new(m: &Manifest, g: &Geometry) -> Self {
        let spec = |name, ty, shape: &[usize]| Spec { name, ty, shape: shape.iter().map(|&d| d as i64).collect() };
        let (t, cells, k) = (m.block_length as usize, g.cells(), m.tokens_per_cell as usize);
        let frames = match g.format {
            PixelFormat::I420 => spec("frames", Type::Uint8, &[t, g.aligned_height * 3 / 2, g.aligned_width]),
            PixelFormat::Rgb => spec("frames", Type::Uint8, &[t, g.aligned_height, g.aligned_width, 3]),
        };
        let (given, taken, shape) = match &m.bottleneck {
            Bottleneck::Fsq { .. } => (Type::Int32, Type::Int32, vec![cells, k]),
            Bottleneck::Vae { dimensions, .. } => (Type::Float32, Type::Float32, vec![cells, k, *dimensions as usize]),
            Bottleneck::Nested { positions, .. } => (Type::Int16, Type::Int32, vec![cells, positions.len()]),
        };
        Self {
            frames,
            tokens: spec("tokens", given, &shape),
            taken: spec("tokens", taken, &shape),
            counts: spec("counts", Type::Int32, &[cells]),
            position: spec("position", Type::Int64, &[]),
            motion: spec("motion", Type::Int32, &[MOTION_PLANES, g.cells_y, g.cells_x]),
            rows: spec("rows", Type::Int64, &[2]),
            step: spec("step", Type::Float32, &[]),
            reconstruction: spec("reconstruction", Type::Float32, &[t, g.aligned_height, g.aligned_width, 3]),
            distortion: spec("distortion", Type::Float32, &[cells, m.layers.len()]),
        }
    }
}

/// Symbolic dimensions that graphs may use, with their sizes in a session for `g`.
pub(super) fn dimensions(g: &Geometry) -> [(&'static str, usize); 6] {
    [
        ("width", g.aligned_width),
        ("height", g.aligned_height),
        ("frame_rows", g.aligned_height * 3 / 2),
        ("cells", g.cells()),
        ("cells_x", g.cells_x),
        ("cells_y", g.cells_y),
    ]
}

/// Inputs or outputs of one graph.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    /// `encoder`, `decoder` or `loop`.
    pub graph: &'a str,
    /// `input` or `output`.
    pub side: &'a str,
    pub outlets: &'a [Outlet],
    /// Sizes of dimensions that the session leaves open.
    pub dimensions: &'a [(&'static str, usize)],
}

fn broken(message: String) -> Error {
    Error::Model(format!("{message}; the bundle breaks the contract of docs/bundle.md, export it again"))
}

/// `[2, cells, 'x']`: sizes, and the names of those that are open.
fn shown(shape: &[i64], symbols: &[String]) -> String {
    let one = |(i, &d): (usize, &i64)| match symbols.get(i) {
        _ if d >= 0 => d.to_string(),
        Some(name) if !name.is_empty() => format!("'{name}'"),
        _ => "?".into(),
    };
    format!("[{}]", shape.iter().enumerate().map(one).collect::<Vec<_>>().join(", "))
}

impl Side<'_> {
    fn wrong(&self, name: &str, what: &str) -> Error {
        broken(format!("{} graph: {} '{name}' {what}", self.graph, self.side))
    }

    /// Whether there is an outlet `name`.
    pub fn has(&self, name: &str) -> bool {
        self.outlets.iter().any(|o| o.name() == name)
    }

    /// Whether `name` is a tensor of type `ty`.
    pub fn is(&self, name: &str, ty: Type) -> bool {
        self.outlets.iter().any(|o| o.name() == name && matches!(o.dtype(), ValueType::Tensor { ty: t, .. } if *t == ty))
    }

    /// Checks that there are exactly the `wanted` tensors and contexts whose names begin with one of `prefixes`; returns the
    /// contexts. Open dimensions (-1) are left in outputs only, where the bound buffer decides.
    pub fn check(&self, wanted: &[&Spec], prefixes: &[&str]) -> Result<Vec<ContextSpec>> {
        for spec in wanted {
            if !self.has(spec.name) {
                return Err(self.wrong(spec.name, "is missing"));
            }
        }
        let mut contexts = Vec::new();
        for outlet in self.outlets {
            let name = outlet.name();
            let ValueType::Tensor { ty, shape, dimension_symbols } = outlet.dtype() else {
                return Err(self.wrong(name, "is not a tensor"));
            };
            let symbols: &[String] = dimension_symbols;
            let size = |(at, &d): (usize, &i64)| {
                let named = self.dimensions.iter().find(|(name, _)| d < 0 && symbols.get(at).is_some_and(|s| s == name));
                named.map_or(d, |(_, size)| *size as i64)
            };
            let shape: Vec<i64> = shape.iter().enumerate().map(size).collect();
            let open = shape.iter().position(|&d| d < 0).filter(|_| self.side == "input");
            if let Some(spec) = wanted.iter().find(|s| s.name == name) {
                if *ty != spec.ty {
                    return Err(self.wrong(name, &format!("is {ty}, not {}", spec.ty)));
                }
                let fits = |(&a, &b): (&i64, &i64)| a == b || a < 0;
                if shape.len() != spec.shape.len() || !shape.iter().zip(&spec.shape).all(fits) {
                    let has = shown(&shape, symbols);
                    return Err(self.wrong(name, &format!("has shape {has}, not {:?}", spec.shape)));
                }
            } else if !prefixes.iter().any(|p| name.starts_with(p)) {
                return Err(self.wrong(name, "is not in the contract, or the manifest does not announce it"));
            }
            if let Some(at) = open {
                let symbol = symbols.get(at).filter(|s| !s.is_empty()).map_or("without a name".into(), |s| format!("'{s}'"));
                return Err(self.wrong(
                    name,
                    &format!("has an open dimension {symbol}; the names are width, height, frame_rows, cells, cells_x, cells_y"),
                ));
            }
            if !wanted.iter().any(|s| s.name == name) {
                contexts.push(ContextSpec { name: name.to_owned(), ty: *ty, shape });
            }
        }
        Ok(contexts)
    }
}

/// Checks that each context of `inputs` has an output of the same type and shape, that there are no other contexts, and that
/// buffers can be made.
pub(super) fn check_contexts(graph: &str, inputs: &[ContextSpec], outputs: &[ContextSpec]) -> Result<()> {
    let wrong = |m: String| Err(broken(format!("{graph} graph: {m}")));
    for c in inputs {
        let (name, ty) = (&c.name, c.ty);
        let Some(out) = outputs.iter().find(|o| o.name.strip_suffix(NEXT) == Some(name)) else {
            return wrong(format!("context '{name}' has no output '{name}{NEXT}'"));
        };
        if out.ty != ty {
            return wrong(format!("context '{name}' goes in as {ty} and comes out as {}", out.ty));
        }
        if out.shape.len() != c.shape.len() || !out.shape.iter().zip(&c.shape).all(|(&a, &b)| a == b || a < 0) {
            return wrong(format!("context '{name}' goes in with shape {:?} and comes out with {:?}", c.shape, out.shape));
        }
        if element_bytes(ty).is_none() {
            return wrong(format!("context '{name}' is {ty}; contexts are u8, i8, i16, i32, i64, f16 or f32"));
        }
        match c.bytes() {
            Some(0) => return wrong(format!("context '{name}' of shape {:?} is empty", c.shape)),
            Some(n) if n <= MAX_CONTEXT => {}
            _ => {
                return Err(Error::Limit(format!(
                    "context '{name}' of the {graph} graph is above 8 GiB for pictures of this size; scale the video down (videoscale)"
                )));
            }
        }
    }
    match outputs.iter().find(|o| o.name.strip_suffix(NEXT).is_none_or(|n| !inputs.iter().any(|c| c.name == n))) {
        Some(o) => wrong(format!("output '{}' is not '{NEXT}' of any context that goes in", o.name)),
        None => Ok(()),
    }
}

/// The context of a graph that decodes bands: the last of its `frames`, and no other.
pub(super) fn reference(graph: &str, contexts: &[ContextSpec], frames: &Spec) -> Result<ContextSpec> {
    match contexts {
        [one] if one.name == REFERENCE && one.ty == frames.ty && one.shape == frames.shape[1..] => Ok(one.clone()),
        _ => Err(broken(format!(
            "{graph} graph: with band_halo its only context is '{REFERENCE}', {} {:?}",
            frames.ty,
            &frames.shape[1..]
        ))),
    }
}

/// Checks that an encoder graph that works on bands has no context of its `own`, and `handed` over have rows of f32 for `cells`.
pub(super) fn check_rows<'a>(own: &[ContextSpec], mut handed: impl Iterator<Item = &'a ContextSpec>, cells: usize) -> Result<()> {
    if let Some(context) = own.first() {
        return Err(broken(format!("encoder graph: with band_halo it has no context of its own, but '{}'", context.name)));
    }
    match handed.find(|h| h.ty != Type::Float32 || h.shape.first() != Some(&(cells as i64))) {
        Some(h) => {
            Err(broken(format!("encoder graph: with band_halo '{}' is f32 [{cells}, ..], not {} {:?}", h.name, h.ty, h.shape)))
        }
        None => Ok(()),
    }
}

fn tensor_bytes(ty: Type, shape: &[i64]) -> Option<u64> {
    let size = element_bytes(ty)?;
    shape.iter().try_fold(size, |n, &d| n.checked_mul(d)).and_then(|n| u64::try_from(n).ok())
}

fn element_bytes(ty: Type) -> Option<i64> {
    match ty {
        Type::Uint8 | Type::Int8 => Some(1),
        Type::Float16 | Type::Int16 => Some(2),
        Type::Float32 | Type::Int32 => Some(4),
        Type::Int64 => Some(8),
        _ => None,
    }
}

/// Checks that the encoder gives (`outputs`) what the loop graph takes from it (`inputs`).
pub(super) fn check_handed(inputs: &[&ContextSpec], outputs: &[ContextSpec]) -> Result<()> {
    for c in inputs {
        let same = |o: &ContextSpec| {
            o.ty == c.ty && o.shape.len() == c.shape.len() && o.shape.iter().zip(&c.shape).all(|(&a, &b)| a == b || a < 0)
        };
        match outputs.iter().find(|o| o.name == c.name) {
            None => return Err(broken(format!("loop graph: the encoder graph does not give '{}'", c.name))),
            Some(o) if !same(o) => {
                return Err(broken(format!(
                    "loop graph: input '{}' is {} {:?}, but {} {:?} as the encoder graph gives it",
                    c.name, c.ty, c.shape, o.ty, o.shape
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Checks that what the encoder reads of the decoder's contexts is there, and the same.
pub(super) fn check_shared(shared: &[ContextSpec], decoder: &[&ContextSpec]) -> Result<()> {
    for c in shared {
        let Some(theirs) = decoder.iter().find(|d| d.name == c.name) else {
            return Err(broken(format!("encoder graph: input '{}' is not a context of the decoder graph", c.name)));
        };
        if *theirs != c {
            return Err(broken(format!(
                "encoder graph: input '{}' is {} {:?}, but {} {:?} in the decoder graph",
                c.name, c.ty, c.shape, theirs.ty, theirs.shape
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in the first column of docs/bundle.md's table with this header.
    fn documented(header: &str) -> Vec<String> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bundle.md");
        let text = std::fs::read_to_string(path).expect("readable");
        let (_, table) = text.split_once(&format!("\n| {header} |")).expect("a table with this header");
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        rows.map(|row| row.split('`').nth(1).expect("a name").to_owned()).collect()
    }

    #[test]
    fn the_reference_names_every_dimension_and_tensor() {
        let bundle = crate::bundle::Bundle::builtin().expect("valid");
        let geometry = bundle.geometry(64, 48).expect("size");
        assert_eq!(documented("dimension"), dimensions(&geometry).map(|(name, _)| name));
        let c = Contract::new(&bundle.manifest, &geometry);
        let specs = [&c.frames, &c.tokens, &c.counts, &c.position, &c.motion, &c.step, &c.rows, &c.distortion, &c.reconstruction];
        let tensors = documented("tensor");
        assert!(tensors.iter().map(String::as_str).take(specs.len()).eq(specs.map(|s| s.name)), "{tensors:?}");
    }
}
