//! Modules of the library import only from layers below their own, according to the drawing in `src/lib.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Files at the top of `src` that are not modules of the library.
const ROOTS: [&str; 2] = ["lib", "main"];

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The lines of the first text block after `begin`.
fn text_block<'a>(document: &'a str, begin: &str, prefix: &str) -> Vec<&'a str> {
    let (_, after) = document.split_once(begin).unwrap_or_else(|| panic!("no `{begin}`"));
    let lines = after.lines().map(|line| line.strip_prefix(prefix).unwrap_or(line));
    let lines = lines.skip_while(|line| *line != "```text").skip(1);
    lines.take_while(|line| *line != "```").collect()
}

/// The modules of each line, one layer per line, up to the description after two spaces or more. The top layer comes
/// first.
fn layers(drawing: &[&str]) -> BTreeMap<String, usize> {
    let names = |line: &str| line.split("  ").next().unwrap_or_default().trim().to_owned();
    let lines = drawing.iter().map(|line| names(line)).enumerate();
    let modules = lines.flat_map(|(layer, names)| {
        let names = names.split(' ').map(|name| (name.to_owned(), layer));
        names.collect::<Vec<_>>()
    });
    let mut layers = BTreeMap::new();
    for (name, layer) in modules {
        assert!(layers.insert(name.clone(), layer).is_none(), "`{name}` is drawn twice");
    }
    layers
}

fn source_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The module at the top of the library that a file belongs to.
fn module_of(file: &Path) -> String {
    let below = file.strip_prefix(package().join("src")).unwrap();
    let top = Path::new(below.components().next().unwrap().as_os_str());
    top.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// The modules that a text names after `crate::`, each with its line. Comments do not count.
fn imports(source: &str) -> Vec<(usize, String)> {
    let code: Vec<&str> = source.lines().map(without_comment).collect();
    let code = code.join("\n");
    let mut imports = Vec::new();
    for (at, path) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let after = &code[at + path.len()..];
        let names = match after.strip_prefix('{') {
            Some(group) => heads(group),
            None => vec![identifier(after)],
        };
        imports.extend(names.into_iter().map(|name| (line, name.to_owned())));
    }
    imports
}

fn without_comment(line: &str) -> &str {
    line.find("//").map_or(line, |comment| &line[..comment])
}

fn identifier(text: &str) -> &str {
    let end = text.find(|char: char| !char.is_alphanumeric() && char != '_');
    &text[..end.unwrap_or(text.len())]
}

/// The first names of the paths in `{a::b, c, d::{e, f}}`; `group` begins after the first brace.
fn heads(group: &str) -> Vec<&str> {
    let mut depth = 1;
    let mut begins = true;
    let mut heads = Vec::new();
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' => begins = depth == 1,
            _ if begins && !char.is_whitespace() => {
                heads.push(identifier(&group[at..]));
                begins = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

#[test]
fn modules_import_only_from_below() {
    let library = fs::read_to_string(package().join("src/lib.rs")).unwrap();
    let layers = layers(&text_block(&library, "//! The library", "//! "));
    let mut files = Vec::new();
    source_files(&package().join("src"), &mut files);
    files.sort();
    let mut wrong = Vec::new();
    let mut undrawn = BTreeSet::new();
    for file in &files {
        let module = module_of(file);
        if ROOTS.contains(&&*module) {
            continue;
        }
        let Some(&layer) = layers.get(&module) else {
            undrawn.insert(module);
            continue;
        };
        let place = file.strip_prefix(package()).unwrap().display();
        for (line, import) in imports(&fs::read_to_string(file).unwrap()) {
            // A name that is not in the drawing is either not a module, or a module that the test for files reports.
            let upward = import != module && layers.get(&import).is_some_and(|&below| below <= layer);
            if upward {
                wrong.push(format!(
                    "{place}:{line}: `{module}` imports `{import}`, which is not below it"
                ));
            }
        }
    }
    assert!(undrawn.is_empty(), "not in the drawing in src/lib.rs: {undrawn:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_documentation_has_the_same_drawing() {
    let library = fs::read_to_string(package().join("src/lib.rs")).unwrap();
    let document = fs::read_to_string(package().join("../docs/architecture.md")).unwrap();
    assert_eq!(
        text_block(&document, "Inside `mplsxdp/src`", ""),
        text_block(&library, "//! The library", "//! ")
    );
}

#[test]
fn all_forms_of_an_import_are_read() {
    let source = "use crate::lfib::Lfib;\n// crate::cli\nuse crate::{\n    route::{Route, Via},\n    log, dataplane::bpf::{self},\n};\n\
                  fn f(x: crate::kernel::Error) { std::mem::drop(x) } // crate::cli\n";
    let read: Vec<(usize, String)> = imports(source);
    let read: Vec<(usize, &str)> = read.iter().map(|(line, name)| (*line, &**name)).collect();
    assert_eq!(
        read,
        [(1, "lfib"), (3, "route"), (3, "log"), (3, "dataplane"), (7, "kernel")]
    );
    let layers = layers(&["top        what is at the top", "left right  two beside each other"]);
    assert_eq!(
        Vec::from_iter(layers),
        [("left".to_owned(), 1), ("right".to_owned(), 1), ("top".to_owned(), 0)]
    );
}
