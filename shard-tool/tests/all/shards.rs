//! Shards: the same bytes as the checkpoint, in standard files, complete by themselves.

use std::fs;
use std::path::{Path, PathBuf};

use binfer_shard::spec::RopeScaling;
use binfer_shard::{Checkpoint, Error, ErrorKind, layouts, read_ahead, shards};
use serde_json::Value;

use crate::folder_writer::Folder;
use crate::gguf_writer::{F32, Llama, TINY};
use crate::scratch;

/// Odd numbers of everything: four ranks share two KV heads, borders fall inside blocks.
const ODD: Llama = Llama { hidden: 96, heads: 6, kv_heads: 2, inner: 160, layers: 2, ..TINY };

/// A name that nothing lies under.
pub(crate) fn absent(name: &str) -> PathBuf {
    let path = scratch(name);
    let _ = fs::remove_dir_all(&path);
    path
}

/// Cuts a checkpoint; the folder.
pub(crate) fn cut(source: &Checkpoint, world: u32, name: &str) -> PathBuf {
    let path = absent(name);
    shards::write(source, world, &path, |_| true).unwrap();
    path
}

/// What each rank loads, in order: names and bytes.
pub(crate) fn loaded(source: &Checkpoint, world: u32) -> Vec<Vec<(String, Vec<Vec<u8>>)>> {
    let load = |layout| {
        let mut all = Vec::new();
        read_ahead(source, &source.local_tensors(layout).unwrap(), |tensor, parts| {
            all.push((tensor.name.clone(), parts));
            Ok::<_, Error>(())
        })
        .unwrap();
        all
    };
    layouts(source.spec(), world).unwrap().iter().map(load).collect()
}

/// Checks shards at every rank count against the checkpoint, and that verifying agrees.
pub(crate) fn check(checkpoint: &Path, name: &str) {
    let source = Checkpoint::open(checkpoint).unwrap();
    for world in 1..=4 {
        let folder = cut(&source, world, &format!("shards-{name}-{world}"));
        let cut = Checkpoint::open(&folder).unwrap();
        assert_eq!(cut.spec(), source.spec(), "{name}");
        assert_eq!(cut.shards_world(), Some(world), "{name}");
        assert_eq!(cut.shards_source_digest(), Some(source.digest()), "{name}");
        assert!(loaded(&cut, world) == loaded(&source, world), "{name}, {world} ranks");
        assert_eq!(shards::verify(&source, &folder, |_| true).unwrap(), world, "{name}");
        assert_eq!(cut.folder().is_none(), source.gguf().is_some(), "{name}");
    }
}

#[test]
fn shards_hold_what_ranks_load_from_the_checkpoint() {
    let path = scratch("shards-odd.gguf");
    ODD.writer().write(&path);
    check(&path, "gguf");
    let parts = ["shards-odd-00001-of-00002.gguf", "shards-odd-00002-of-00002.gguf"].map(scratch);
    ODD.writer().split(2).iter().zip(&parts).for_each(|(part, path)| part.write(path));
    check(&parts[0], "split");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny");
    // Stray tensors; two files and tied embeddings; biases.
    for name in ["llama2", "llama31", "llama-bias"] {
        check(&tiny.join(name), name);
    }
}

#[test]
fn settings_travel_with_the_shards() {
    let path = absent("shards-settings-source");
    Folder::new("Qwen3ForCausalLM", "qwen3").write(&path);
    fs::write(path.join("chat_template.jinja"), "{{ messages }}").unwrap();
    fs::write(path.join("README.md"), "not a setting").unwrap();
    let folder = cut(&Checkpoint::open(&path).unwrap(), 2, "shards-settings");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let ranks = ["rank-0-of-2.safetensors", "rank-1-of-2.safetensors"];
    assert_eq!(
        names,
        [&["chat_template.jinja", "config.json", "manifest.json"], &ranks[..]].concat()
    );

    // A setting in the form of a tensor goes along.
    let path = scratch("shards-rope.gguf");
    let mut writer = TINY.writer();
    writer.tensor("rope_freqs.weight", &[8], F32).u32("split.count", 1);
    let mut bytes = writer.bytes();
    let start = bytes.len() - 32;
    for (pair, divisor) in [1.0_f32, 1.0, 1.0, 1.0, 1.0, 8.0, 8.0, 8.0].iter().enumerate() {
        bytes[start + 4 * pair..][..4].copy_from_slice(&divisor.to_le_bytes());
    }
    fs::write(&path, &bytes).unwrap();
    let source = Checkpoint::open(&path).unwrap();
    let cut = Checkpoint::open(cut(&source, 2, "shards-rope")).unwrap();
    let gqa = crate::model::gqa(cut.spec(), 0);
    assert!(matches!(gqa.rope.scaling, RopeScaling::Llama3 { .. }), "{:?}", gqa.rope);
    let (there, here) = (&source.gguf().unwrap().metadata, &cut.gguf().unwrap().metadata);
    assert!(here.get("split.count").is_none());
    let others = there.iter().filter(|(key, _)| *key != "split.count");
    assert!(others.eq(here.iter()), "metadata differ");
}

#[test]
fn a_rank_s_file_is_a_standard_safetensors_file_of_aligned_tensors() {
    let path = scratch("shards-standard.gguf");
    ODD.writer().write(&path);
    let folder = cut(&Checkpoint::open(&path).unwrap(), 3, "shards-standard");
    let manifest: Value =
        serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    for rank in manifest["ranks"].as_array().unwrap() {
        let bytes = fs::read(folder.join(rank["file"].as_str().unwrap())).unwrap();
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!((start % 4096, rank["bytes"].as_u64().unwrap()), (0, bytes.len() as u64));
        let header: Value = serde_json::from_slice(&bytes[8..start as usize]).unwrap();
        let mut header = header.as_object().unwrap().clone();
        header.remove("__metadata__").unwrap();
        let of = |entry: &Value, end: usize| entry["data_offsets"][end].as_u64().unwrap();
        let mut entries: Vec<_> = header.into_iter().collect();
        entries.sort_by_key(|(_, entry)| of(entry, 0));
        let mut end = 0;
        for (name, entry) in &entries {
            assert_eq!(of(entry, 0), end, "{name}: a hole, or an overlap");
            end = of(entry, 1);
            let elems: u64 =
                entry["shape"].as_array().unwrap().iter().flat_map(Value::as_u64).product();
            let each = if entry["dtype"] == "U8" { 1 } else { 4 };
            assert_eq!(elems * each, end - of(entry, 0), "{name}");
            let fill = name.starts_with("_fill.");
            assert!(fill || of(entry, 0).is_multiple_of(4096), "{name} is not aligned");
            let list = &rank[if fill { "fills" } else { "tensors" }];
            let record = list.as_array().unwrap().iter().find(|record| record["name"] == **name);
            let record = record.unwrap_or_else(|| panic!("{name} is not in the manifest"));
            assert_eq!(record["offset"].as_u64().unwrap(), start + of(entry, 0), "{name}");
        }
        assert_eq!(start + end, bytes.len() as u64);
        let listed = ["tensors", "fills"].map(|list| rank[list].as_array().unwrap());
        assert_eq!(listed[0].len() + listed[1].len(), entries.len());
        let name = |record: &Value| record["tensor"].as_str().unwrap().to_owned();
        assert_eq!(name(&listed[0][0]), "embed");
        assert_eq!(name(listed[0].last().unwrap()), "final.norm");
    }
    // Four ranks at most hold a byte, and only where it is declared.
    let tensors = manifest["source"]["tensors"].as_array().unwrap();
    let covered = |name: &str| {
        let tensor = tensors.iter().find(|tensor| tensor["name"] == name).unwrap();
        let by_ranks = &tensor["covered"]["by_ranks"];
        (by_ranks["repeated"].clone(), by_ranks["repeated_bytes"].as_u64().unwrap())
    };
    assert_eq!(covered("token_embd.weight"), ("never".into(), 0));
    assert_eq!(covered("blk.0.attn_norm.weight"), ("replicated".into(), 2 * 96 * 4));
    // Three ranks, two KV heads of 16 rows: one head is held twice.
    assert_eq!(covered("blk.1.attn_k.weight"), ("shared_kv_heads".into(), 16 * 60));
    // Query heads 0..2, 2..3, 3..6 of 16 columns: the border at 48 falls inside a block.
    assert_eq!(covered("blk.1.attn_output.weight"), ("shared_blocks".into(), 96 * 20));
}

#[test]
fn only_checkpoints_are_cut_and_only_for_ranks_that_they_have_work_for() {
    let path = scratch("shards-refused.gguf");
    TINY.writer().write(&path);
    let source = Checkpoint::open(&path).unwrap();
    let folder = cut(&source, 2, "shards-refused");
    let again =
        shards::write(&Checkpoint::open(&folder).unwrap(), 2, &absent("shards-again"), |_| true);
    let error = again.unwrap_err();
    assert!(
        error.to_string().contains("it is made of shards already; give the checkpoint"),
        "{error}"
    );
    let error = shards::write(&source, 5, &absent("shards-five"), |_| true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Layout);
    let three = layouts(source.spec(), 3).unwrap();
    let error = Checkpoint::open(&folder).unwrap().local_tensors(&three[0]).unwrap_err();
    assert!(error.to_string().contains("shards for 2 ranks, not for 3"), "{error}");
    assert!(!scratch("shards-five").exists() && !scratch("shards-again").exists());
}
