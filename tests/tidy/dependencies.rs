//! Licences, sources and bans of the dependencies, out of `cargo metadata`.
//!
//! Advisories need a database from a network: `make audit` asks for them.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Licences that a program under MIT may be made of without a further duty than naming them.
const LICENCES: [&str; 12] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CDLA-Permissive-2.0", // the roots of TLS, which are data
    "ISC",
    "MIT",
    "NCSA", // libFuzzer, of which nothing is in the program
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
/// Packages that must not come back, and why.
const BANNED: [(&str, &str); 9] = [
    ("aws-lc-sys", "ring is the one provider of cryptography"),
    ("chrono", "dates go through one crate"),
    ("hf-hub", "the hub's client is shard-tool/src/hub/"),
    ("native-tls", "TLS is rustls"),
    ("onig_sys", "tokenizers splits through fancy-regex"),
    ("openssl-sys", "TLS is rustls"),
    ("protobuf-src", "protox compiles the protos, no protoc is needed"),
    ("pyo3", "no Python at run time"),
    ("reqwest", "downloads go through ureq"),
];
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// Every package is somebody to trust: raise this knowingly.
const PACKAGES_MAX: usize = 246;

struct Package {
    name: String,
    version: String,
    licence: Option<String>,
    /// `None` for the packages of this repository.
    source: Option<String>,
}

fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    packages
        .iter()
        .map(|package| Package {
            name: text(&package["name"]).expect("a name"),
            version: text(&package["version"]).expect("a version"),
            licence: text(&package["license"]),
            source: text(&package["source"]),
        })
        .collect()
}

#[test]
fn dependencies_have_licences_that_ours_allows() {
    let wrong = packages().into_iter().filter_map(|package| {
        let licence = package.licence.as_deref().unwrap_or("none");
        (!is_allowed(licence)).then(|| format!("{} {}: {licence}", package.name, package.version))
    });
    super::none("take another package, or add the licence here", &wrong.collect::<Vec<_>>());
}

#[test]
fn dependencies_come_from_crates_io_alone() {
    let wrong = packages()
        .into_iter()
        .filter_map(|package| Some((package.name, package.source?)))
        .filter(|(_, source)| source != CRATES_IO)
        .map(|(name, source)| format!("{name}: {source}"));
    super::none("no packages out of git or other registries", &wrong.collect::<Vec<_>>());
}

#[test]
fn dependencies_are_few_and_none_is_banned() {
    let packages = packages();
    let banned: BTreeMap<_, _> = BANNED.into_iter().collect();
    let found = packages.iter().filter_map(|package| {
        let why = banned.get(package.name.as_str())?;
        Some(format!("{}: {why}", package.name))
    });
    super::none("banned", &found.collect::<Vec<_>>());
    let count = packages.len();
    assert!(count <= PACKAGES_MAX, "{count} packages, {PACKAGES_MAX} at most: is each needed?");
}

/// Whether an SPDX expression can be met. `/` is how old manifests write `OR`.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let tokens = expression.replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = tokens.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    either(&mut rest) && rest.is_empty()
}

fn either(rest: &mut &[&str]) -> bool {
    let mut allowed = both(rest);
    while rest.first() == Some(&"OR") {
        *rest = &rest[1..];
        allowed |= both(rest);
    }
    allowed
}

fn both(rest: &mut &[&str]) -> bool {
    let mut allowed = one(rest);
    while rest.first() == Some(&"AND") {
        *rest = &rest[1..];
        allowed &= one(rest);
    }
    allowed
}

fn one(rest: &mut &[&str]) -> bool {
    match **rest {
        ["(", ..] => {
            *rest = &rest[1..];
            let allowed = either(rest);
            assert_eq!(rest.first(), Some(&")"), "a licence expression without its end");
            *rest = &rest[1..];
            allowed
        }
        [licence, "WITH", exception, ..] => {
            *rest = &rest[3..];
            LICENCES.contains(&format!("{licence} WITH {exception}").as_str())
        }
        [licence, ..] => {
            *rest = &rest[1..];
            LICENCES.contains(&licence)
        }
        [] => false,
    }
}

#[test]
fn licence_expressions_are_understood() {
    for allowed in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "MIT AND BSD-3-Clause",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
    ] {
        assert!(is_allowed(allowed), "{allowed}");
    }
    for refused in
        ["none", "", "GPL-3.0", "MIT AND GPL-3.0", "MPL-2.0", "(GPL-3.0 OR MPL-2.0) AND MIT"]
    {
        assert!(!is_allowed(refused), "{refused}");
    }
}
