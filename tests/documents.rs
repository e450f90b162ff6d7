// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the documents point at is there: CONTRIBUTING.md's table of where things are, and every path in them.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn is_file(name: &str) -> bool {
    [".rs", ".py", ".sh"].iter().any(|end| name.ends_with(end))
}

/// Whether source code defines `name`: a function, a type, or a type's function as `Type::function`.
fn defines(code: &str, name: &str) -> bool {
    let words = |keys: &[&str], name: &str| {
        let after = |at: usize, key: &str| code[at + key.len()..].strip_prefix(name).and_then(|rest| rest.chars().next());
        let ends = |c: Option<char>| c.is_some_and(|c| !c.is_alphanumeric() && c != '_');
        keys.iter().any(|key| code.match_indices(key).any(|(at, key)| ends(after(at, key))))
    };
    let types = ["struct ", "enum ", "trait ", "impl ", "class "];
    match name.split_once("::") {
        Some((ty, function)) => words(&types, ty) && words(&["fn "], function),
        None if name.starts_with(char::is_uppercase) => words(&types[..3], name),
        None => words(&["fn ", "def "], name),
    }
}

#[test]
fn the_table_of_where_things_are_is_true() {
    let text = read(&root().join("CONTRIBUTING.md"));
    let table = text.split_once("## Where is ...?").unwrap().1;
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    assert!(rows.len() >= 10);
    for row in rows {
        let (mut code, mut files) = (None, 0);
        for name in quoted(row) {
            if is_file(name) {
                code = Some(read(&root().join(name)));
                files += 1;
            } else {
                let code = code.as_ref().unwrap_or_else(|| panic!("`{name}` before its file: {row}"));
                assert!(defines(code, name), "`{name}` is not in the file before it: {row}");
            }
        }
        assert!(files > 0, "{row}");
    }
    assert!(defines("fn run(", "run") && !defines("fn runs(", "run") && !defines("struct A;", "A::run"));
}

#[test]
fn paths_in_documents_exist() {
    let mut documents = vec![root().join("README.md"), root().join("CONTRIBUTING.md"), root().join("onnx/README.md")];
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    documents.extend(docs.filter(|path| path.extension().is_some_and(|e| e == "md")));
    let tops = ["src/", "plugin/", "etok/", "tools/", "tests/", "benches/", "examples/", "fuzz/", "packaging/", "docs/", "onnx/"];
    let mut found = 0;
    for document in documents {
        for path in quoted(&read(&document)).filter(|name| tops.iter().any(|top| name.starts_with(top))) {
            let path = path.split_whitespace().next().unwrap();
            if path.contains(['<', '*', '{', '(']) {
                continue;
            }
            assert!(root().join(path).exists(), "{} names {path}", document.display());
            found += 1;
        }
    }
    assert!(found > 50, "{found}");
}
