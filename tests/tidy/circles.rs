//! No two source files of a package import each other, be it by a detour.
//!
//! A file imports another where it names something that the other defines: in a `use`, or by a path
//! in its code. A re-export is looked through. A child may use what the modules around it define:
//! that is no edge here. Methods that a child adds to its parent's type are not seen.

use std::collections::{BTreeMap, BTreeSet};

use super::{none, rust};

/// A module by the names from the crate's root to it.
type ModulePath = Vec<String>;

/// One source file as a module.
struct Module {
    file: String,
    /// Code without comments, texts and what tests add.
    code: String,
    /// Names that a `pub use` gives away, each with the path that it stands for.
    exports: BTreeMap<String, ModulePath>,
}

type Modules = BTreeMap<ModulePath, Module>;

#[test]
fn no_files_import_each_other_in_a_circle() {
    let packages =
        ["coordinator", "fuzz", "kernels", "proto", "shard-tool", "shard-tool/console", "worker"];
    let circles: Vec<String> =
        packages.iter().flat_map(|package| circles(&modules(package))).collect();
    none("move what both need into a file of its own", &circles);
}

fn modules(package: &str) -> Modules {
    let source = format!("{package}/src/");
    let inside = rust().filter(|file| file.path.starts_with(&source) && !file.is_test());
    let mut modules = Modules::new();
    for file in inside {
        let path = file.path[source.len()..].trim_end_matches(".rs").split('/');
        let mut path: ModulePath = path.map(str::to_owned).collect();
        let last = path.last().map_or("", String::as_str);
        if ["lib", "mod", "main"].contains(&last) {
            path.pop();
        }
        let code = bare_code(&file.text);
        let exports = uses(&code).into_iter().filter(|(public, _)| *public);
        let exports = exports.flat_map(|(_, tree)| imports(&tree)).collect();
        modules.insert(path, Module { file: file.path, code, exports });
    }
    modules
}

/// Every set of files that reach each other, as one line.
fn circles(modules: &Modules) -> Vec<String> {
    let edges: BTreeMap<&ModulePath, BTreeSet<&ModulePath>> =
        modules.keys().map(|path| (path, imported(modules, path))).collect();
    let reached: BTreeMap<&ModulePath, BTreeSet<&ModulePath>> =
        edges.keys().map(|path| (*path, reach(&edges, path))).collect();
    let circle = |path: &&ModulePath| -> Vec<&str> {
        let both = reached[path].iter().filter(|other| reached[*other].contains(path));
        both.map(|other| modules[*other].file.as_str()).collect()
    };
    let found: BTreeSet<Vec<&str>> = edges.keys().map(circle).collect();
    found.into_iter().filter(|files| files.len() > 1).map(|files| files.join(" ")).collect()
}

fn reach<'a>(
    edges: &BTreeMap<&'a ModulePath, BTreeSet<&'a ModulePath>>,
    from: &'a ModulePath,
) -> BTreeSet<&'a ModulePath> {
    let mut reached = BTreeSet::new();
    let mut left = vec![from];
    while let Some(path) = left.pop() {
        left.extend(edges[path].iter().filter(|next| reached.insert(**next)));
    }
    reached
}

/// The modules whose items the module at `path` names.
fn imported<'a>(modules: &'a Modules, path: &ModulePath) -> BTreeSet<&'a ModulePath> {
    let code = &modules[path].code;
    let private = uses(code).into_iter().filter(|(public, _)| !public);
    let named = private.flat_map(|(_, tree)| imports(&tree).into_iter().map(|(_, path)| path));
    let found = named.chain(inline_paths(code)).filter_map(|name| resolve(modules, path, &name, 0));
    found.filter(|other| !path.starts_with(other)).collect()
}

/// The module that defines what `name`, said in the module `from`, stands for.
fn resolve<'a>(
    modules: &'a Modules,
    from: &[String],
    name: &[String],
    depth: usize,
) -> Option<&'a ModulePath> {
    let mut at = from.to_vec();
    let mut rest = name;
    match name.first()?.as_str() {
        "crate" => (at, rest) = (Vec::new(), &name[1..]),
        "self" => rest = &name[1..],
        "super" => {}
        first => {
            at.push(first.to_owned());
            rest = &name[1..];
        }
    }
    while rest.first().is_some_and(|word| word == "super") {
        at.pop();
        rest = &rest[1..];
    }
    // A name of another crate, or of something in this very file.
    let (mut place, _) = modules.get_key_value(&at)?;
    for word in rest {
        let child = [&place[..], std::slice::from_ref(word)].concat();
        match (modules.get_key_value(&child), modules[place].exports.get(word)) {
            (Some((child, _)), _) => place = child,
            (None, Some(target)) if depth < 8 => {
                return resolve(modules, place, target, depth + 1).or(Some(place));
            }
            (None, _) => break,
        }
    }
    Some(place)
}

/// Text up to a file's tests, without comments and without what stands between quotes.
fn bare_code(text: &str) -> String {
    let lines = text.lines().take_while(|line| !line.contains("mod tests {"));
    let code = lines.map(|line| line.split("//").next().unwrap_or(""));
    let code = code.collect::<Vec<_>>().join("\n");
    code.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

/// Every `use`: whether it is public, and its tree.
fn uses(code: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let line_start = code[..at].rfind('\n').map_or(0, |end| end + 1);
        let before = code[line_start..at].trim();
        let statement = before.is_empty() || before == "pub" || before.starts_with("pub(");
        if let (true, Some(end)) = (statement, code[at..].find(';')) {
            let tree = code[at + 4..at + end].split_whitespace().collect::<Vec<_>>().join(" ");
            found.push((!before.is_empty(), tree));
        }
    }
    found
}

/// The names that a tree of `use` brings in, each with its whole path.
fn imports(tree: &str) -> Vec<(String, ModulePath)> {
    let tree = tree.trim();
    let Some((prefix, inside)) = tree.split_once('{') else {
        let (path, name) = match tree.split_once(" as ") {
            Some((path, name)) => (path, Some(name)),
            None => (tree, None),
        };
        let path: ModulePath = path.split("::").map(|word| word.trim().to_owned()).collect();
        let last = path.last().cloned().unwrap_or_default();
        return vec![(name.map_or(last, str::to_owned), path)];
    };
    let prefix: ModulePath = prefix
        .split("::")
        .map(|word| word.trim().to_owned())
        .filter(|word| !word.is_empty())
        .collect();
    let inside = inside.trim_end().trim_end_matches('}');
    let mut found = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in inside.char_indices().chain([(inside.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = inside[start..at].trim();
                start = (at + 1).min(inside.len());
                if !part.is_empty() {
                    let whole = |(name, path): (String, ModulePath)| {
                        (name, prefix.iter().cloned().chain(path).collect())
                    };
                    found.extend(imports(part).into_iter().map(whole));
                }
            }
            _ => {}
        }
    }
    found
}

/// Every path of two words or more in the code, imports aside.
fn inline_paths(code: &str) -> Vec<ModulePath> {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let words = code.split(|letter: char| !is_name(letter) && letter != ':');
    let paths = words.filter(|word| word.contains("::") && !word.starts_with(':'));
    paths.map(|path| path.split("::").map(str::to_owned).collect()).collect()
}
