//! Twins have the same fields in the same order and of the same types, so that equal sizes mean
//! equal places.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Structs by name: fields with their types, as Rust has them.
type Structs = BTreeMap<String, Vec<(String, String)>>;

/// Header and module of each pair.
const PAIRS: [&str; 6] =
    ["params", "gemm_params", "attention_params", "rank_params", "sample_params", "moe_params"];

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// Fields between `open` and a line that closes the struct; `field` reads a line.
fn structs(text: &str, open: &str, field: fn(&str) -> Option<(String, String)>) -> Structs {
    let mut all = Structs::new();
    let mut current: Option<String> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix(open)
            && let Some((name, _)) = rest.split_once(" {")
        {
            let name = name.split(' ').next_back().unwrap_or(name).to_owned();
            all.insert(name.clone(), Vec::new());
            current = Some(name);
        } else if line.starts_with('}') {
            current = None;
        } else if let (Some(name), Some(field)) = (&current, field(line)) {
            all.get_mut(name).unwrap().push(field);
        }
    }
    all
}

/// `  const float* x;  // what it is`
fn of_c(line: &str) -> Option<(String, String)> {
    let code = line.split("//").next()?.trim().strip_suffix(';')?;
    let (kind, name) = code
        .rsplit_once(' ')
        .filter(|_| !code.contains('['))
        .or_else(|| code[..code.find('[')?].rsplit_once(' '))?;
    let one = match kind.trim_start_matches("const ") {
        pointer if pointer.ends_with('*') => "Address",
        "uint16_t" => "u16",
        // Counts that C++ subtracts have signs there; no value needs the highest bit.
        "uint32_t" | "int32_t" => "u32",
        "uint64_t" => "u64",
        "float" => "f32",
        "double" => "f64",
        other => other,
    };
    // How long an array is, follows from the size.
    let kind = if code.contains('[') { format!("[{one}]") } else { one.to_owned() };
    Some((name.to_owned(), kind))
}

/// `    pub x: Address,`
fn of_rust(line: &str) -> Option<(String, String)> {
    let (name, kind) = line.trim().strip_prefix("pub ")?.strip_suffix(',')?.split_once(": ")?;
    let kind = kind.replace("i32", "u32");
    let kind = match kind.split_once(';') {
        Some((element, _)) => format!("{element}]"),
        None => kind,
    };
    Some((name.to_owned(), kind))
}

#[test]
fn twins_have_the_same_fields() {
    for pair in PAIRS {
        let ours = structs(&read(&format!("src/{pair}.rs")), "pub struct ", of_rust);
        let theirs = structs(&read(&format!("cuda/{pair}.h")), "struct ", of_c);
        let compared = theirs.keys().filter(|name| *name != "TensorMap");
        for name in compared.clone() {
            assert_eq!(ours.get(name), theirs.get(name), "{name} in {pair}");
        }
        assert!(compared.count() > 0 && theirs.values().all(|fields| !fields.is_empty()), "{pair}");
    }
}

#[test]
fn a_field_that_changes_place_or_type_is_seen() {
    let theirs =
        "struct A {\n  const void* x;  // T [n]\n  uint32_t n[kMax + 1];\n  float eps;\n};\n";
    let ours =
        "pub struct A {\n    pub x: Address,\n    pub n: [u32; MAX + 1],\n    pub eps: f32,\n}\n";
    let (ours, theirs) = (structs(ours, "pub struct ", of_rust), structs(theirs, "struct ", of_c));
    assert_eq!(ours["A"].len(), 3);
    assert_eq!(ours, theirs);
    let swapped = "struct A {\n  uint32_t n[2];\n  const void* x;\n  float eps;\n};\n";
    assert_ne!(ours, structs(swapped, "struct ", of_c));
}
