//! Embedding and head that are one matrix, stored under either name, and indices that list more.

use binfer_shard::{Checkpoint, ErrorKind};
use serde_json::json;

use crate::folder_writer::{Folder, tensor};
use crate::scratch;

const EMBED: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

fn tied() -> Folder {
    let mut folder = Folder::new("LlamaForCausalLM", "llama");
    folder.set("tie_word_embeddings", json!(true));
    folder
}

#[test]
fn tied_weights_are_found_under_either_name() {
    for (absent, stored) in [(HEAD, EMBED), (EMBED, HEAD)] {
        let mut folder = tied();
        folder.tensors.retain(|tensor| tensor.name != absent);
        let path = scratch("tied-either");
        folder.write(&path);
        let source = Checkpoint::open(&path).unwrap();
        let spec = source.spec();
        assert!(spec.tied_head && spec.tensor("head").is_none());
        let embed = spec.tensor("embed").unwrap();
        assert_eq!((spec.head_tensor(), embed.parts[0].source.as_str()), ("embed", stored));
        folder.set("tie_word_embeddings", json!(false)).write(&path);
        let error = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("lacks tensors: {absent}")), "{error}");
    }
    let mut neither = tied();
    neither.tensors.retain(|tensor| tensor.name != HEAD && tensor.name != EMBED);
    let path = scratch("tied-neither");
    neither.write(&path);
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(error.contains(&format!("lacks tensors: {EMBED}")), "{error}");
}

#[test]
fn an_index_may_list_what_the_files_rightly_lack() {
    let mut folder = tied();
    folder.tensors.retain(|tensor| tensor.name != HEAD);
    let path = scratch("tied-index");
    folder.write_split(&path);
    let index = path.join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    let listing = |names: &[&str]| {
        let mut index: serde_json::Value = serde_json::from_str(&text).unwrap();
        for name in names {
            index["weight_map"][*name] = json!("model-00002-of-00002.safetensors");
        }
        index.to_string()
    };
    let buffer = "model.layers.0.self_attn.rotary_emb.inv_freq";
    std::fs::write(&index, listing(&[HEAD, buffer, "model.old.bias"])).unwrap();
    assert!(Checkpoint::open(&path).unwrap().spec().tied_head);
    // What the model needs is missed, and the index says where it should be.
    folder.set("tie_word_embeddings", json!(false)).write_split(&path);
    std::fs::write(&index, listing(&[HEAD])).unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let wanted = "lacks tensors: lm_head.weight; index and files are of different models";
    assert!(error.to_string().contains(wanted), "{error}");
}

#[test]
fn buffers_of_old_versions_are_no_weights() {
    let mut folder = Folder::new("LlamaForCausalLM", "llama");
    for name in ["model.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.cos_cached"] {
        folder.tensors.push(tensor(name, "F32", &[4]));
    }
    let path = scratch("tied-buffers");
    folder.write(&path);
    Checkpoint::open(&path).unwrap();
    folder.tensors.push(tensor("model.rotary_emb.weight", "F32", &[4]));
    folder.write(&path);
    assert!(Checkpoint::open(&path).is_err());
}
