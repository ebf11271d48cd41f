//! The layers of both crates: a module imports only from modules below it.
//!
//! A layer is a file or a folder directly under `src`; `lib.rs` stands above all of them. The test
//! reads the sources as tokens, so comments, strings and documentation links do not count.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers of this crate, the lowest first.
const CORE: &[&str] = &[
    "limits",
    "error",
    "clock",
    "poll",
    "shim",
    "key",
    "invalidation",
    "coherence",
    "options",
    "metrics",
    "single_flight",
    "index",
    "cache",
];

/// The layers of the compiled module, the lowest first.
const PYTHON: &[&str] = &[
    "interned",
    "python_modules",
    "error",
    "convert",
    "constants",
    "value",
    "runtime",
    "awaitable",
    "load",
    "async_cache",
    "policy",
];

/// One import of another layer.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    from: String,
    to: String,
}

#[test]
fn the_core_crate_imports_only_downwards() {
    assert_eq!(violations("sark-cache-core", CORE), Vec::<String>::new());
}

#[test]
fn the_compiled_module_imports_only_downwards() {
    assert_eq!(violations("sark-cache-python", PYTHON), Vec::<String>::new());
}

#[test]
fn an_upward_import_is_found_in_every_form() {
    let layers = ["low", "middle", "high"];
    for (path, source) in [
        ("low.rs", "use crate::high::Item;"),
        ("low.rs", "use crate::{middle as _, high};"),
        ("low/mod.rs", "use super::high::Item;"),
        ("low/inner.rs", "use super::super::{high::Item};"),
        ("low.rs", "mod tests { use super::super::high::Item; }"),
        ("low/inner.rs", "fn f() { println!(\"{}\", crate::high::item()); }"),
        ("low.rs", "impl Trait for crate::high::Item {}"),
        ("low.rs", "macro_rules! item { () => { $crate::high::item() } }"),
    ] {
        let imports = imports(Path::new(path), source);
        assert!(!upward(&imports, &layers).is_empty(), "{path}: {source}");
    }
}

#[test]
fn downward_imports_and_other_text_are_not_reported() {
    let layers = ["low", "middle", "high"];
    for (path, source) in [
        ("high.rs", "use crate::{low::Item, middle};"),
        ("low.rs", "/// See [`high`](crate::high).\nuse super::low::Item;"),
        ("low/inner.rs", "use super::high::Item;"),
        ("low.rs", "mod high { pub struct Item; } mod tests { use super::high::Item; }"),
        ("low.rs", "pub(crate) fn high() -> &'static str { \"crate::high\" }"),
        ("lib.rs", "use crate::high::Item; use low::Item as Other;"),
    ] {
        let imports = imports(Path::new(path), source);
        assert_eq!(upward(&imports, &layers), Vec::<String>::new(), "{path}: {source}");
    }
}

#[test]
fn a_name_of_the_crate_root_is_reported_because_it_names_no_layer() {
    let imports = imports(Path::new("low.rs"), "use crate::Reexported;");
    assert_eq!(upward(&imports, &["low"]), ["low imports Reexported, which is no layer"]);
}

/// Returns the imports of a crate that do not point downwards, and the modules without a layer.
fn violations(package: &str, layers: &[&str]) -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(package).join("src");
    let mut imports = BTreeSet::new();
    let mut modules = BTreeSet::new();
    for file in rust_files(&source) {
        let path = file.strip_prefix(&source).expect("the file is below the source folder");
        modules.extend(module_path(path).into_iter().next());
        imports.extend(self::imports(path, &fs::read_to_string(&file).expect("the file is UTF-8")));
    }
    let listed = layers.iter().map(|layer| (*layer).to_owned()).collect();
    assert_eq!(modules, listed, "every module of {package} has one layer");
    assert!(imports.len() >= layers.len(), "imports were found in {package}");
    upward(&imports, layers)
}

/// Returns a sentence for each import that does not point from a layer to a lower one.
fn upward(imports: &BTreeSet<Import>, layers: &[&str]) -> Vec<String> {
    let height = |module: &str| layers.iter().position(|layer| *layer == module);
    let report = |Import { from, to }: &Import| match (height(from), height(to)) {
        (Some(from_height), Some(to_height)) if to_height < from_height => None,
        (_, None) => Some(format!("{from} imports {to}, which is no layer")),
        _ => Some(format!("{from} imports {to}, which is not below it")),
    };
    imports.iter().filter_map(report).collect()
}

/// Returns the imports of other layers in one file, given by its path below `src`.
fn imports(path: &Path, source: &str) -> BTreeSet<Import> {
    let module = module_path(path);
    let Some(from) = module.first().cloned() else { return BTreeSet::new() };
    let tokens = source.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut targets = BTreeSet::new();
    collect_targets(tokens, module.len(), &mut targets);
    targets.remove(&from);
    targets.into_iter().map(|to| Import { from: from.clone(), to }).collect()
}

/// Adds the first segment below the crate's root of every path that starts there.
///
/// `depth` is the number of modules around the tokens, the file's own included.
fn collect_targets(tokens: TokenStream, depth: usize, targets: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if let Some(segments) = path_to_root(&tokens[at..], depth) {
            at += segments;
            targets.extend(first_segments(&tokens[at..]));
        } else if let TokenTree::Group(group) = &tokens[at] {
            let is_module =
                at >= 2 && is_word(&tokens[at - 2], "mod") && group.delimiter() == Delimiter::Brace;
            collect_targets(group.stream(), depth + usize::from(is_module), targets);
            at += 1;
        } else {
            at += 1;
        }
    }
}

/// Returns the length of a prefix `crate::`, or of as many `super::` as lead out of all modules.
fn path_to_root(tokens: &[TokenTree], depth: usize) -> Option<usize> {
    const SEGMENT: usize = 3;
    let starts_with = |at: usize, word: &str| {
        tokens.get(at..at + SEGMENT).is_some_and(|segment| {
            is_word(&segment[0], word) && segment[1..].iter().all(|token| is_punct(token, ':'))
        })
    };
    if starts_with(0, "crate") {
        return Some(SEGMENT);
    }
    let supers = (0..=depth).take_while(|at| starts_with(at * SEGMENT, "super")).count();
    (supers > 0 && supers == depth).then_some(supers * SEGMENT)
}

/// Returns the names that follow `crate::`: one, or those of a group `{a, b::c}`.
fn first_segments(tokens: &[TokenTree]) -> Vec<String> {
    match tokens.first() {
        Some(TokenTree::Group(group)) => {
            let items: Vec<TokenTree> = group.stream().into_iter().collect();
            let names = items.split(|token| is_punct(token, ',')).filter_map(<[_]>::first);
            names.map(ToString::to_string).collect()
        }
        Some(name) => vec![name.to_string()],
        None => Vec::new(),
    }
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

/// Returns the modules that lead to a file: `key/parts.rs` is `key::parts`; `lib.rs` is the root.
fn module_path(path: &Path) -> Vec<String> {
    let without_extension = path.with_extension("");
    let names = without_extension.iter().map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| !matches!(name.as_str(), "mod" | "lib")).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is readable");
    let paths = entries.map(|entry| entry.expect("the folder is readable").path());
    let (folders, files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    let own = files.into_iter().filter(|file| file.extension().is_some_and(|it| it == "rs"));
    own.chain(folders.iter().flat_map(|folder| rust_files(folder))).collect()
}
