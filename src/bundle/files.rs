// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files of a bundle: regular ones, of a bounded size, and weights in the bundle's own directory only.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Graph;
use super::onnx::references;
use crate::{Error, Result};

/// Bytes of `bundle.json` and of `tables.bin` at most.
pub(super) const MAX_DESCRIPTION: u64 = 1 << 20;
/// Bytes of a graph without its external weights at most: protobuf's own limit.
const MAX_GRAPH: u64 = (1 << 31) - 1;
/// Bytes of a graph's external weights at most.
const MAX_WEIGHTS: u64 = 64 << 30;

fn unreadable(file: &Path, error: &std::io::Error) -> Error {
    Error::Model(format!(
        "cannot read {}: {error}; a bundle is a directory with bundle.json, encoder.onnx and decoder.onnx",
        file.display()
    ))
}

fn refused(file: &Path, why: &str) -> Error {
    Error::Model(format!("{} {why}", file.display()))
}

/// Opens a regular file; returns its length, `limit` at most.
fn open(path: &Path, limit: u64) -> Result<(File, u64)> {
    let regular = |m: std::fs::Metadata| m.is_file();
    let irregular = || refused(path, "is not a regular file; copy the file itself into the bundle");
    // Opening a pipe would wait for its other end.
    if !std::fs::metadata(path).map(regular).map_err(|e| unreadable(path, &e))? {
        return Err(irregular());
    }
    let file = File::open(path).map_err(|e| unreadable(path, &e))?;
    let metadata = file.metadata().map_err(|e| unreadable(path, &e))?;
    let length = metadata.len();
    if !metadata.is_file() {
        return Err(irregular());
    }
    if length > limit {
        return Err(refused(path, &format!("has {length} bytes, above the limit of {limit}; export the bundle again")));
    }
    Ok((file, length))
}

/// The whole of a file of up to `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, length) = open(path, limit)?;
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(length).read_to_end(&mut bytes).map_err(|e| unreadable(path, &e))?;
    Ok(bytes)
}

/// Adds a file of weights to `hash`: its length and content, a piece at a time.
pub(super) fn hash_weights(hash: &mut Sha256, path: &Path) -> Result<()> {
    let (file, length) = open(path, MAX_WEIGHTS)?;
    hash.update(length.to_le_bytes());
    let copied = std::io::copy(&mut file.take(length), hash).map_err(|e| unreadable(path, &e))?;
    if copied != length {
        return Err(refused(path, "changes while it is read; load the bundle again"));
    }
    Ok(())
}

/// Adds the graph in a file to `hash`, as its bytes in memory would be.
pub(super) fn hash_graph(hash: &mut Sha256, path: &Path) -> Result<()> {
    let bytes = read(path, MAX_GRAPH)?;
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(&bytes);
    Ok(())
}

/// Whether anything has this name, even a dangling link.
pub(super) fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// Where a graph's external weights lie.
pub(super) fn weights(graph: &Path) -> PathBuf {
    let mut name = graph.as_os_str().to_owned();
    name.push(".data");
    name.into()
}

/// Checks that weights are a file in the bundle's directory, whatever links lead to them.
fn check_weights(path: &Path) -> Result<()> {
    open(path, MAX_WEIGHTS)?;
    let whole = |p: &Path| p.canonicalize().map_err(|e| unreadable(path, &e));
    let folder = path.parent().unwrap_or(Path::new("."));
    if !whole(path)?.starts_with(whole(folder)?) {
        return Err(refused(path, "leads out of the bundle's directory; copy the file itself into the bundle"));
    }
    Ok(())
}

/// The graph in a file: in memory, or left in its file where its weights lie beside it.
pub(super) fn graph(path: &Path) -> Result<Graph> {
    let bytes = read(path, MAX_GRAPH)?;
    let found = references(&bytes).ok_or_else(|| refused(path, "is not an ONNX graph; export the bundle again"))?;
    if found.compiled {
        return Err(refused(path, "holds compiled code (EPContext); export the bundle from the plain graph"));
    }
    let beside = weights(path);
    let name = beside.file_name().unwrap_or_default();
    // Any other file would be read relative to the working directory, and the fingerprint would not cover it.
    if let Some(other) = found.weights.iter().find(|location| name != location.as_str()) {
        let name = name.display();
        return Err(refused(
            path,
            &format!("has weights in '{other}', and a bundle's lie in {name} beside the graph; export it with its weights there"),
        ));
    }
    if exists(&beside) {
        check_weights(&beside)?;
        return Ok(Graph::File(path.to_owned()));
    }
    if !found.weights.is_empty() {
        return Err(refused(&beside, "is missing; copy it into the bundle, or export it again"));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::super::onnx::tests::{external, model};
    use super::super::{Bundle, Graph};
    use super::*;

    /// A bundle directory that goes away with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles/official");
            let path = std::env::temp_dir().join(format!("elastictok-bundle-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).expect("writable");
            for file in std::fs::read_dir(from).expect("readable").flatten() {
                std::fs::copy(file.path(), path.join(file.file_name())).expect("copied");
            }
            Self(path)
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn replace(&self, name: &str, content: &[u8]) {
            std::fs::remove_file(self.file(name)).expect("there before");
            std::fs::write(self.file(name), content).expect("writable");
        }

        fn message(&self) -> String {
            match Bundle::load(&self.0) {
                Err(Error::Model(message)) => message,
                other => panic!("{other:?}"),
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn weights_beside_a_graph_leave_it_in_its_file_and_count() {
        let folder = Folder::new("good");
        let bundle = Bundle::load(&folder.0).expect("valid");
        assert!(matches!(&bundle.decoder, Graph::File(path) if path.is_absolute()));
        let mut weights = std::fs::read(folder.file("decoder.onnx.data")).expect("readable");
        weights[0] ^= 1;
        folder.replace("decoder.onnx.data", &weights);
        assert_ne!(Bundle::load(&folder.0).expect("valid").fingerprint, bundle.fingerprint);
    }

    #[test]
    fn weights_elsewhere_are_refused() {
        let folder = Folder::new("elsewhere");
        for location in ["other.data", "../decoder.onnx.data", "/etc/passwd", "sub/decoder.onnx.data", "*/_ORT_MEM_ADDR_/*", ""] {
            for graph in ["encoder.onnx", "decoder.onnx"] {
                let before = std::fs::read(folder.file(graph)).expect("readable");
                folder.replace(graph, &model(&external(location)));
                let message = folder.message();
                assert!(message.contains(graph) && message.contains(&format!("'{location}'")), "{message}");
                folder.replace(graph, &before);
            }
        }
        std::fs::remove_file(folder.file("decoder.onnx.data")).expect("there");
        let message = folder.message();
        assert!(message.contains("decoder.onnx.data is missing"), "{message}");
    }

    #[test]
    fn files_are_bounded_and_graphs_are_graphs() {
        let folder = Folder::new("bounded");
        let huge = |name: &str, bytes| {
            let file = File::options().write(true).open(folder.file(name)).expect("there");
            let before = file.metadata().expect("there").len();
            file.set_len(bytes).expect("sparse");
            let message = folder.message();
            assert!(message.contains(name) && message.contains(&bytes.to_string()), "{message}");
            file.set_len(before).expect("as before");
        };
        huge("bundle.json", 1 << 40);
        huge("encoder.onnx", 1 << 40);
        huge("decoder.onnx.data", 1 << 42);
        folder.replace("encoder.onnx", b"not a graph");
        assert!(folder.message().contains("is not an ONNX graph"));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        use std::os::unix::fs::symlink;
        let zero = Path::new("/dev/zero");
        for name in ["bundle.json", "encoder.onnx", "decoder.onnx", "decoder.onnx.data", "loop.onnx"] {
            let folder = Folder::new(&format!("irregular-{name}"));
            let file = folder.file(name);
            let _ = std::fs::remove_file(&file);
            symlink(zero, &file).expect("linked");
            let message = folder.message();
            assert!(message.contains(name) && message.contains("not a regular file"), "{message}");
            std::fs::remove_file(&file).expect("there");
            if std::process::Command::new("mkfifo").arg(&file).status().is_ok_and(|s| s.success()) {
                let message = folder.message();
                assert!(message.contains(name) && message.contains("not a regular file"), "{message}");
            }
        }
        let folder = Folder::new("link");
        std::fs::rename(folder.file("decoder.onnx.data"), folder.0.with_extension("data")).expect("moved");
        symlink(folder.0.with_extension("data"), folder.file("decoder.onnx.data")).expect("linked");
        assert!(folder.message().contains("out of the bundle's directory"));
        std::fs::remove_file(folder.0.with_extension("data")).expect("there");
        let message = Bundle::load(zero).expect_err("a device").to_string();
        assert!(message.contains("/dev/zero") && message.contains("directory"), "{message}");
    }
}
