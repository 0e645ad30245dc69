//! Compiles cluster.proto with protox (no protoc needed) and stamps the protocol's digest.
use std::hash::{DefaultHasher, Hash, Hasher};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=cluster.proto");
    let descriptors = protox::compile(["cluster.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    let mut hasher = DefaultHasher::new();
    std::fs::read("cluster.proto")?.hash(&mut hasher);
    println!("cargo:rustc-env=BINFER_PROTOCOL_DIGEST={:016x}", hasher.finish());
    Ok(())
}
