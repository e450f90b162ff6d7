// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where `libonnxruntime` may be installed.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Searched even where `ld.so.conf` does not name them.
const SYSTEM: [&str; 6] = ["/usr/local/lib", "/usr/local/lib64", "/lib", "/usr/lib", "/lib64", "/usr/lib64"];

/// The version in a library's file name: [1, 32, 0] of `libonnxruntime.so.1.32.0`.
fn version(path: &Path) -> Option<Vec<u32>> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("libonnxruntime.so.")?.split('.').map(|n| n.parse().ok()).collect()
}

/// The version of the library at `path`, where the name of its file tells, behind links.
pub(super) fn version_of(path: &Path) -> Option<Vec<u32>> {
    version(&path.canonicalize().ok()?)
}

/// The library in `directory`: the plain name first, else the newest version.
pub(super) fn in_directory(directory: &Path) -> Option<PathBuf> {
    let rank = |path: &Path| match path.file_name()?.to_str()? {
        "libonnxruntime.so" | "libonnxruntime.dylib" => Some(vec![u32::MAX]),
        _ => version(path),
    };
    let entries = std::fs::read_dir(directory).ok()?;
    let named = entries.filter_map(|e| e.ok().map(|e| e.path())).filter_map(|p| rank(&p).map(|v| (v, p)));
    // Only these are looked at: a system's directory has thousands of others.
    named.filter(|(_, p)| p.is_file()).max().map(|(_, p)| p)
}

/// `directory`, and where a PyPI wheel or a release archive that was unpacked there has the library.
fn layouts(directory: &Path) -> [PathBuf; 3] {
    [directory.to_owned(), directory.join("onnxruntime/capi"), directory.join("lib")]
}

/// Wheels installed under the library directory `lib` of a Python: `lib/python3*/*-packages/onnxruntime/capi`.
fn wheels(lib: &Path) -> Vec<PathBuf> {
    let pythons = std::fs::read_dir(lib).into_iter().flatten().filter_map(|e| e.ok().map(|e| e.path()));
    let mut found: Vec<_> = pythons
        .filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("python3")))
        .flat_map(|p| ["site-packages", "dist-packages"].map(|s| p.join(s).join("onnxruntime/capi")))
        .filter(|p| p.is_dir())
        .collect();
    found.sort();
    found.reverse();
    found
}

/// Directories of `ld.so`'s configuration `file` and the ones that it includes; `read` holds the files that were read.
fn loader_directories(file: &Path, read: &mut HashSet<PathBuf>, out: &mut Vec<PathBuf>) {
    if !read.insert(file.to_owned()) {
        return;
    }
    let Ok(text) = std::fs::read_to_string(file) else { return };
    for line in text.lines().map(|l| l.split('#').next().unwrap_or_default().trim()).filter(|l| !l.is_empty()) {
        let Some(pattern) = line.strip_prefix("include ").map(str::trim) else {
            out.extend(Some(PathBuf::from(line)).filter(|p| p.is_absolute()));
            continue;
        };
        // Patterns have the form `directory/*.conf`.
        let pattern = file.parent().unwrap_or(Path::new("/")).join(pattern);
        let (Some(directory), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|n| n.to_str())) else { continue };
        let (before, after) = name.split_once('*').unwrap_or((name, ""));
        let mut files: Vec<_> = std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(before) && n.ends_with(after)))
            .collect();
        files.sort();
        for file in files {
            loader_directories(&file, read, out);
        }
    }
}

/// The directory of a package's own copy, beside GStreamer's plugin directory: it is not a library of the system.
const PACKAGE: &str = "elastictok";

/// Where to look for the library.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Absolute, in the order in which they are searched.
    pub directories: Vec<PathBuf>,
    /// Variables with a relative path, `NAME=value`. They are passed over: a library found relative to the working directory
    /// could be anybody's code.
    pub passed_over: Vec<String>,
}

/// Directories in the order in which they are searched: beside the plugin, a package's own, the system's library path, where
/// `install-deps.sh` puts the library, then installed PyPI wheels. `variable` reads the process's environment.
pub(super) fn places(beside: Option<&Path>, variable: &dyn Fn(&str) -> Option<OsString>) -> Places {
    let mut passed_over = Vec::new();
    let mut absolute = |name: &str, path: PathBuf| {
        let usable = path.is_absolute();
        if !usable {
            passed_over.push(format!("{name}={}", path.display()));
        }
        usable.then_some(path)
    };
    let set = |name: &str| variable(name).filter(|v| !v.is_empty());
    let mut directory = |name: &str| set(name).and_then(|value| absolute(name, value.into()));
    let (home, data, environment) = (directory("HOME"), directory("XDG_DATA_HOME"), directory("VIRTUAL_ENV"));
    let mut all: Vec<PathBuf> = beside.into_iter().flat_map(layouts).collect();
    all.extend(beside.and_then(Path::parent).map(|d| d.join(PACKAGE)));
    let libraries = set("LD_LIBRARY_PATH");
    all.extend(libraries.iter().flat_map(std::env::split_paths).filter_map(|p| absolute("LD_LIBRARY_PATH", p)));
    let mut system = Vec::new();
    loader_directories(Path::new("/etc/ld.so.conf"), &mut HashSet::new(), &mut system);
    system.extend(SYSTEM.map(PathBuf::from));
    // programs that have the elements built in do not lie beside a package's copy
    all.extend(system.iter().map(|d| d.join(PACKAGE)));
    all.extend(system);
    let data = data.or_else(|| home.as_ref().map(|h| h.join(".local/share")));
    all.extend(data.iter().flat_map(|d| layouts(&d.join("elastictok/onnxruntime"))));
    all.extend(environment.iter().flat_map(|v| wheels(&v.join("lib"))));
    all.extend(home.iter().flat_map(|h| wheels(&h.join(".local/lib"))));
    all.extend(["/usr/local/lib", "/usr/lib"].iter().flat_map(|l| wheels(Path::new(l))));
    let mut seen = HashSet::new();
    all.retain(|p| seen.insert(p.clone()));
    Places { directories: all, passed_over }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes away with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("elastictok-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&directory).expect("writable");
            Self(directory)
        }

        fn file(&self, name: &str, content: &str) -> PathBuf {
            let path = self.0.join(name);
            std::fs::create_dir_all(path.parent().expect("inside")).expect("writable");
            std::fs::write(&path, content).expect("writable");
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_plain_name_wins_then_the_newest_and_strangers_are_ignored() {
        let dir = Scratch::new("library");
        assert_eq!(in_directory(&dir.0), None);
        for name in ["libonnxruntime_providers_shared.so", "libonnxruntime.so.bak", "readme"] {
            dir.file(name, "");
        }
        assert_eq!(in_directory(&dir.0), None);
        dir.file("libonnxruntime.so.1.9.0", "");
        let newest = dir.file("libonnxruntime.so.1.30.0", "");
        assert_eq!(in_directory(&dir.0), Some(newest));
        let plain = dir.file("libonnxruntime.so", "");
        assert_eq!(in_directory(&dir.0), Some(plain));
        assert_eq!(in_directory(&dir.0.join("nowhere")), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_version_is_in_the_name_of_the_file_behind_links() {
        let dir = Scratch::new("version");
        let file = dir.file("libonnxruntime.so.1.26.0", "");
        let link = dir.0.join("libonnxruntime.so");
        std::os::unix::fs::symlink(&file, &link).expect("writable");
        assert_eq!(version_of(&link), Some(vec![1, 26, 0]));
        assert_eq!(version_of(&dir.file("plain/libonnxruntime.so", "")), None);
        assert_eq!(version_of(&dir.0.join("nowhere")), None);
    }

    #[test]
    fn loader_configuration_follows_includes_and_stops_at_loops() {
        let dir = Scratch::new("loader");
        let main = dir.file("ld.so.conf", "include conf.d/*.conf # all of them\nrelative\n/opt/last\n");
        dir.file("conf.d/b.conf", "/opt/b\n");
        dir.file("conf.d/a.conf", "# comment\n\n/opt/a\n");
        dir.file("conf.d/ignored.txt", "/opt/ignored\n");
        let mut found = Vec::new();
        loader_directories(&main, &mut HashSet::new(), &mut found);
        assert_eq!(found, ["/opt/a", "/opt/b", "/opt/last"].map(PathBuf::from));
        let own = dir.file("loop.conf", "/opt/loop\ninclude loop.conf\n");
        let mut found = Vec::new();
        loader_directories(&own, &mut HashSet::new(), &mut found);
        assert_eq!(found, [PathBuf::from("/opt/loop")]);
    }

    #[test]
    fn places_come_in_the_documented_order() {
        let dir = Scratch::new("places");
        dir.file("venv/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.30.0", "");
        let venv = dir.0.join("venv");
        let variable = |name: &str| match name {
            "HOME" => Some(dir.0.clone().into_os_string()),
            "LD_LIBRARY_PATH" => Some("/opt/one:relative:/opt/two".into()),
            "VIRTUAL_ENV" => Some(venv.clone().into_os_string()),
            _ => None,
        };
        let Places { directories: all, passed_over } = places(Some(Path::new("/plugins")), &variable);
        assert_eq!(passed_over, ["LD_LIBRARY_PATH=relative"]);
        let at = |p: PathBuf| all.iter().position(|x| *x == p).unwrap_or_else(|| panic!("{} is missing", p.display()));
        let order = [
            at("/plugins".into()),
            at("/plugins/onnxruntime/capi".into()),
            at("/elastictok".into()),
            at("/opt/one".into()),
            at("/opt/two".into()),
            at("/usr/lib/elastictok".into()),
            at("/usr/lib".into()),
            at(dir.0.join(".local/share/elastictok/onnxruntime")),
            at(venv.join("lib/python3.11/site-packages/onnxruntime/capi")),
        ];
        assert!(order.is_sorted(), "{all:?}");
        assert!(!all.contains(&PathBuf::from("relative")));
        let elsewhere = |name: &str| (name == "XDG_DATA_HOME").then(|| OsString::from("/data"));
        assert!(places(None, &elsewhere).directories.contains(&PathBuf::from("/data/elastictok/onnxruntime")));
    }

    #[test]
    fn variables_that_are_not_absolute_are_passed_over_and_named() {
        for name in ["HOME", "XDG_DATA_HOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH"] {
            for value in [".", "venv", "../lib", "~/venv"] {
                let found = places(None, &|n: &str| (n == name).then(|| OsString::from(value)));
                assert!(found.directories.iter().all(|d| d.is_absolute()), "{name}={value}: {found:?}");
                assert_eq!(found.passed_over, [format!("{name}={value}")]);
            }
        }
        // a relative XDG_DATA_HOME does not hide the default
        let both = |name: &str| Some(OsString::from(if name == "HOME" { "/home/me" } else { "data" }));
        assert!(places(None, &both).directories.contains(&PathBuf::from("/home/me/.local/share/elastictok/onnxruntime")));
    }
}
