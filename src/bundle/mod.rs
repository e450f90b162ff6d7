// SPDX-License-Identifier: MIT OR Apache-2.0
//! Model bundles: a model as it is shipped and loaded. `docs/bundle.md` is the reference.

mod files;
mod manifest;
mod onnx;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use once_cell::sync::OnceCell;
use sha2::{Digest, Sha256};

pub use manifest::{Bottleneck, FORMAT_VERSION, Manifest, Position, SearchRule};

use crate::Result;
use crate::frame::Geometry;

/// First bytes of a SHA-256, naming the model that decodes a stream.
pub type Fingerprint = [u8; 8];

/// An ONNX graph.
#[derive(Clone)]
pub enum Graph {
    /// The whole graph in memory.
    Memory(Cow<'static, [u8]>),
    /// A file whose weights lie in another one beside it, too large to be read whole.
    File(PathBuf),
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl From<&'static [u8]> for Graph {
    fn from(bytes: &'static [u8]) -> Self {
        Self::Memory(Cow::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for Graph {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Memory(Cow::Owned(bytes))
    }
}

/// A model: its manifest, graphs and entropy tables. Cheap to clone where weights are in files of their own.
#[derive(Clone)]
pub struct Bundle {
    /// What the core must know of the model.
    pub manifest: Manifest,
    /// The encoder graph.
    pub encoder: Graph,
    /// The decoder graph.
    pub decoder: Graph,
    /// The loop graph: the decoder as an encoder runs it, without what the encoder graph has already computed. `None`: the
    /// decoder graph is run.
    pub loop_graph: Option<Graph>,
    /// `tables.bin`; empty for bottlenecks without one.
    pub tables: Cow<'static, [u8]>,
    /// Names this model in streams.
    pub fingerprint: Fingerprint,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle")
            .field("name", &self.manifest.name)
            .field("encoder", &self.encoder)
            .field("decoder", &self.decoder)
            .field("fingerprint", &self.fingerprint)
            .finish()
    }
}

fn hash_bytes(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// Covers what a decoder must have in common with the encoder: the decoder graph with its weights, the entropy tables, and
/// the manifest's fields that decide how tokens lie in the stream. Free text and the encoder graph do not count.
fn fingerprint(manifest: &Manifest, decoder: &Graph, tables: &[u8]) -> Result<Fingerprint> {
    let mut hash = Sha256::new();
    hash_bytes(&mut hash, manifest.decoding_fields().as_bytes());
    match decoder {
        Graph::Memory(bytes) => hash_bytes(&mut hash, bytes),
        Graph::File(path) => {
            files::hash_graph(&mut hash, path)?;
            files::hash_weights(&mut hash, &files::weights(path))?;
        }
    }
    hash_bytes(&mut hash, tables);
    let mut out = Fingerprint::default();
    out.copy_from_slice(&hash.finalize()[..8]);
    Ok(out)
}

impl Bundle {
    fn from_parts(
        manifest: Manifest,
        [encoder, decoder]: [Graph; 2],
        loop_graph: Option<Graph>,
        tables: Cow<'static, [u8]>,
    ) -> Result<Self> {
        let fingerprint = fingerprint(&manifest, &decoder, &tables)?;
        Ok(Self { manifest, encoder, decoder, loop_graph, tables, fingerprint })
    }

    /// The bundle inside this binary.
    pub fn builtin() -> Result<Arc<Self>> {
        static BUILTIN: OnceCell<Arc<Bundle>> = OnceCell::new();
        BUILTIN
            .get_or_try_init(|| {
                Self::from_parts(
                    Manifest::parse(include_bytes!("../../onnx/models/builtin/bundle.json"))?,
                    [
                        include_bytes!("../../onnx/models/builtin/encoder.onnx").as_slice().into(),
                        include_bytes!("../../onnx/models/builtin/decoder.onnx").as_slice().into(),
                    ],
                    Some(include_bytes!("../../onnx/models/builtin/loop.onnx").as_slice().into()),
                    Cow::Borrowed(include_bytes!("../../onnx/models/builtin/tables.bin")),
                )
                .map(Arc::new)
            })
            .cloned()
    }

    /// Loads a bundle from its directory, or from the path of its `bundle.json`. Graphs with weights beside them
    /// (`encoder.onnx.data`, and so on) stay in their files, which are read once for the fingerprint. Only regular files are
    /// read, up to a size, and no weights of any other name or place.
    pub fn load(path: &Path) -> Result<Self> {
        // The working directory may be another one when a graph is opened.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let folder = if path.is_file() { path.parent().unwrap_or(Path::new("/")) } else { &path };
        let file = |name: &str| folder.join(name);
        let manifest = Manifest::parse(&files::read(&file("bundle.json"), files::MAX_DESCRIPTION)?)?;
        let tables = match manifest.bottleneck {
            Bottleneck::Nested { .. } => files::read(&file("tables.bin"), files::MAX_DESCRIPTION)?,
            _ => Vec::new(),
        };
        let loop_graph = Some(file("loop.onnx")).filter(|f| files::exists(f)).map(|f| files::graph(&f)).transpose()?;
        let graphs = [files::graph(&file("encoder.onnx"))?, files::graph(&file("decoder.onnx"))?];
        Self::from_parts(manifest, graphs, loop_graph, tables.into())
    }

    /// `builtin`, or the path of a bundle.
    pub fn resolve(model: &str) -> Result<Arc<Self>> {
        match model {
            "builtin" | "" => Self::builtin(),
            path => Self::load(Path::new(path)).map(Arc::new),
        }
    }

    /// The builtin bundle that made a stream, if it was one.
    pub fn by_fingerprint(fingerprint: &Fingerprint) -> Result<Option<Arc<Self>>> {
        let builtin = Self::builtin()?;
        Ok((builtin.fingerprint == *fingerprint).then_some(builtin))
    }

    /// Geometry of a `width` x `height` picture under this model.
    pub fn geometry(&self, width: u32, height: u32) -> Result<Geometry> {
        Geometry::new(width, height, self.manifest.pixel_format, self.manifest.alignment, self.manifest.cell)
    }
}

/// A fingerprint in hexadecimal, as messages and `stats` show it.
pub fn fingerprint_name(fingerprint: &Fingerprint) -> String {
    fingerprint.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn the_builtin_bundle_is_valid() {
        let bundle = Bundle::builtin().expect("valid");
        let bytes = |g: &Graph| if let Graph::Memory(bytes) = g { bytes.len() } else { usize::MAX };
        let graphs = [&bundle.encoder, &bundle.decoder].into_iter().chain(&bundle.loop_graph);
        assert!(graphs.map(bytes).fold(0, usize::saturating_add) < 12 << 20);
        assert_eq!(Bundle::by_fingerprint(&bundle.fingerprint).expect("valid").map(|b| b.fingerprint), Some(bundle.fingerprint));
        assert!(Bundle::by_fingerprint(&[0; 8]).expect("valid").is_none());
    }

    #[test]
    fn a_missing_bundle_says_what_a_bundle_is() {
        let error = Bundle::resolve("/nonexistent/model").expect_err("nothing there");
        assert!(matches!(&error, Error::Model(m) if m.contains("bundle.json")), "{error}");
    }
}
