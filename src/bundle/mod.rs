// SPDX-License-Identifier: MIT OR Apache-2.0
//! Model bundles: one model as this project ships and loads it.

mod manifest;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use once_cell::sync::OnceCell;
use sha2::{Digest, Sha256};

pub use manifest::{Bottleneck, FORMAT_VERSION, Manifest, Position};

use crate::frame::Geometry;
use crate::{Error, Result};

/// First bytes of a SHA-256, naming the model that decodes a stream.
pub type Fingerprint = [u8; 8];

/// A model: its manifest, two graphs and entropy tables.
#[derive(Clone)]
pub struct Bundle {
    /// What the core must know of the model.
    pub manifest: Manifest,
    /// The encoder graph, ONNX.
    pub encoder: Cow<'static, [u8]>,
    /// The decoder graph, ONNX.
    pub decoder: Cow<'static, [u8]>,
    /// `tables.bin`; empty for bottlenecks without one.
    pub tables: Cow<'static, [u8]>,
    /// Names this model in streams.
    pub fingerprint: Fingerprint,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle")
            .field("name", &self.manifest.name)
            .field("encoder_bytes", &self.encoder.len())
            .field("decoder_bytes", &self.decoder.len())
            .field("fingerprint", &self.fingerprint)
            .finish()
    }
}

/// What a stream's decoder must have in common with its encoder: the decoder graph, the entropy tables, and of the manifest
/// the fields that say how tokens lie in the stream. Free text does not count, nor does the encoder graph.
fn fingerprint(manifest: &Manifest, decoder: &[u8], tables: &[u8]) -> Fingerprint {
    let mut hash = Sha256::new();
    for part in [manifest.decoding_fields().as_bytes(), decoder, tables] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut out = Fingerprint::default();
    out.copy_from_slice(&hash.finalize()[..8]);
    out
}

impl Bundle {
    fn from_parts(
        manifest: &[u8],
        encoder: Cow<'static, [u8]>,
        decoder: Cow<'static, [u8]>,
        tables: Cow<'static, [u8]>,
    ) -> Result<Self> {
        let manifest = Manifest::parse(manifest)?;
        let fingerprint = fingerprint(&manifest, &decoder, &tables);
        Ok(Self { manifest, encoder, decoder, tables, fingerprint })
    }

    /// The bundle inside this binary.
    pub fn builtin() -> Result<Arc<Self>> {
        static BUILTIN: OnceCell<Arc<Bundle>> = OnceCell::new();
        BUILTIN
            .get_or_try_init(|| {
                Self::from_parts(
                    include_bytes!("../../onnx/models/builtin/bundle.json"),
                    Cow::Borrowed(include_bytes!("../../onnx/models/builtin/encoder.onnx")),
                    Cow::Borrowed(include_bytes!("../../onnx/models/builtin/decoder.onnx")),
                    Cow::Borrowed(include_bytes!("../../onnx/models/builtin/tables.bin")),
                )
                .map(Arc::new)
            })
            .cloned()
    }

    /// Loads a bundle from its directory, or from the path of its `bundle.json`.
    pub fn load(path: &Path) -> Result<Self> {
        let folder = if path.is_file() { path.parent().unwrap_or(Path::new(".")) } else { path };
        let read = |name: &str| {
            let file = folder.join(name);
            std::fs::read(&file).map_err(|e| {
                Error::Model(format!(
                    "cannot read {}: {e}; a bundle is a directory with bundle.json, encoder.onnx and decoder.onnx",
                    file.display()
                ))
            })
        };
        let manifest = read("bundle.json")?;
        let tables = match Manifest::parse(&manifest)?.bottleneck {
            Bottleneck::Nested { .. } => read("tables.bin")?,
            _ => Vec::new(),
        };
        Self::from_parts(&manifest, read("encoder.onnx")?.into(), read("decoder.onnx")?.into(), tables.into())
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

    #[test]
    fn the_builtin_bundle_is_valid() {
        let bundle = Bundle::builtin().expect("valid");
        assert!(bundle.encoder.len() + bundle.decoder.len() < 12 << 20);
        assert_eq!(Bundle::by_fingerprint(&bundle.fingerprint).expect("valid").map(|b| b.fingerprint), Some(bundle.fingerprint));
        assert!(Bundle::by_fingerprint(&[0; 8]).expect("valid").is_none());
    }

    #[test]
    fn a_missing_bundle_says_what_a_bundle_is() {
        let error = Bundle::resolve("/nonexistent/model").expect_err("nothing there");
        assert!(matches!(&error, Error::Model(m) if m.contains("bundle.json")), "{error}");
    }
}
