// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the core's integration tests share: reference data of the official code, and small bundles.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// The official code's reference data, from `ELASTICTOK_FIXTURES`, else `../shared/fixtures/official` beside the workspace.
/// `None`, and a line that says so, where there is none.
pub fn fixtures() -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/official");
    let folder = std::env::var_os("ELASTICTOK_FIXTURES").map_or(default, PathBuf::from);
    if folder.join("units").is_dir() {
        return Some(folder);
    }
    eprintln!(
        "no reference data in {}: tested against rows made by hand instead; set ELASTICTOK_FIXTURES to test against the official code's",
        folder.display()
    );
    None
}

/// An .npz archive.
pub struct Npz(npyz::npz::NpzArchive<BufReader<File>>);

impl Npz {
    pub fn open(path: &Path) -> Self {
        Self(npyz::npz::NpzArchive::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    pub fn names(&self) -> Vec<String> {
        self.0.array_names().map(str::to_owned).collect()
    }

    /// The values of an array in C order.
    pub fn get<T: npyz::Deserialize>(&mut self, name: &str) -> Vec<T> {
        let array = self.0.by_name(name).unwrap().unwrap_or_else(|| panic!("no array {name}"));
        assert_eq!(array.order(), npyz::Order::C, "{name}");
        array.into_vec().unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}
