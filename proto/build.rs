//! Compiles the protos with protox (no protoc needed) and stamps the digest of cluster.proto.
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

/// What clients speak. Reflection gives their descriptors away.
const CLIENT_PROTOS: [&str; 3] = ["health.proto", "smg_common.proto", "vllm_engine.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=cluster.proto");
    let descriptors = protox::compile(["cluster.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    let mut hasher = DefaultHasher::new();
    std::fs::read("cluster.proto")?.hash(&mut hasher);
    println!("cargo:rustc-env=BINFER_PROTOCOL_DIGEST={:016x}", hasher.finish());
    compile_client_protos()
}

fn compile_client_protos() -> Result<(), Box<dyn std::error::Error>> {
    for proto in CLIENT_PROTOS {
        println!("cargo:rerun-if-changed={proto}");
    }
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(CLIENT_PROTOS)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .btree_map(".")
        .include_file("client_protos.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    compiler.include_source_info(false);
    std::fs::write(out.join("client_protos.bin"), compiler.encode_file_descriptor_set())?;
    Ok(())
}
