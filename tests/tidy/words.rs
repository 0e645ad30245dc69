//! Words: identifiers that the project no longer uses, lines of comments, files that pages name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{File, files, none};

const COMMENT_COLUMNS_MAX: usize = 100;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Source of every language in which comments begin with two slashes.
fn sources() -> impl Iterator<Item = File> {
    const ENDINGS: [&str; 5] = [".rs", ".cu", ".cuh", ".h", ".proto"];
    files().into_iter().filter(|file| ENDINGS.iter().any(|ending| file.path.ends_with(ending)))
}

/// The table of docs/glossary.md: an identifier that is gone, and what stands in its place.
fn retired() -> BTreeMap<String, String> {
    let page = fs::read_to_string(root().join("docs/glossary.md")).expect("the glossary");
    let (_, table) = page.split_once("| no longer | now |\n").expect("the table of retired names");
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let mut retired = BTreeMap::new();
    for row in rows {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let (old, new) = (cells.next().expect("old"), cells.next().expect("new"));
        for name in old.split(',') {
            retired.insert(name.trim().trim_matches('`').to_owned(), new.to_owned());
        }
    }
    assert!(retired.len() > 50, "the table is read wrong: {} names", retired.len());
    retired
}

#[test]
fn retired_identifiers_do_not_come_back() {
    let retired = retired();
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let found = sources().flat_map(|file| {
        let mut found = Vec::new();
        for (number, line) in file.text.lines().enumerate() {
            // English may be said in comments and between quotes.
            let code = line.split("//").next().unwrap_or("");
            let code = code.split('"').step_by(2).collect::<Vec<_>>().join(" ");
            let names = code.split(|letter| !is_name(letter));
            found.extend(names.filter_map(|name| {
                let new = retired.get(name)?;
                Some(format!("{}:{}: {name} is now {new}", file.path, number + 1))
            }));
        }
        found
    });
    none("docs/glossary.md says why", &found.collect::<Vec<_>>());
}

#[test]
fn comments_keep_to_the_columns_of_code() {
    let wide = sources().flat_map(|file| {
        let lines = file.text.lines().enumerate().filter(|(_, line)| {
            line.trim_start().starts_with("//") && line.chars().count() > COMMENT_COLUMNS_MAX
        });
        lines.map(|(number, _)| format!("{}:{}", file.path, number + 1)).collect::<Vec<_>>()
    });
    none("rustfmt does not wrap comments: 100 columns at most", &wide.collect::<Vec<_>>());
}

/// A page that names a file or folder of the repository names one that is there.
#[test]
fn files_that_pages_name_exist() {
    const FOLDERS: [&str; 8] = [
        "coordinator/",
        "docs/",
        "fuzz/",
        "kernels/",
        "proto/",
        "shard-tool/",
        "tests/",
        "worker/",
    ];
    // The list of fixtures names files of the repositories that they are from.
    let is_ours = |file: &File| file.path.ends_with(".md") && !file.path.contains("fixtures/");
    let pages = files().into_iter().filter(is_ours);
    let gone = pages.flat_map(|page| {
        let quoted = page.text.split('`').skip(1).step_by(2);
        let paths = quoted.filter(|text| FOLDERS.iter().any(|folder| text.starts_with(folder)));
        let plain = paths.filter(|path| !path.contains([' ', '*', '{', '<', '\n']));
        let missing = plain.filter(|path| !root().join(path.trim_end_matches('/')).exists());
        missing.map(|path| format!("{}: {path}", page.path)).collect::<Vec<_>>()
    });
    none("a page names what is not there", &gone.collect::<Vec<_>>());
}
