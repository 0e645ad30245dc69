//! Hugging Face folders: one file and several, what is missing, slices and their bytes.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use binfer_shard::spec::{KvKind, RopeScaling, TensorCut};
use binfer_shard::{Checkpoint, DType, ErrorKind, describe, layouts, local_tensor};
use serde_json::json;

use crate::folder_writer::{Folder, tensor};
use crate::gguf_writer::byte_of;
use crate::scratch;

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny").join(name)
}

#[test]
fn models_that_transformers_wrote() {
    let names = [
        "llama2",
        "llama31",
        "llama-linear",
        "llama-bias",
        "mistral",
        "qwen2",
        "qwen3",
        "qwen3-yarn",
    ];
    for name in names {
        let source = Checkpoint::open(tiny(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let spec = source.spec();
        assert!(source.gguf().is_none() && source.folder() == Some(source.path()), "{name}");
        for world in 1..=4 {
            for layout in layouts(spec, world).unwrap() {
                for tensor in &spec.tensors {
                    for part in local_tensor(tensor, &layout).unwrap().parts {
                        source.read_into(&part, &mut vec![0; part.bytes() as usize]).unwrap();
                    }
                }
            }
        }
        let has = |name: &str| spec.tensor(&format!("layers.1.{name}")).is_some();
        let optional = ["attn.qkv.bias", "attn.out.bias", "ffn.down.bias", "attn.q_norm"].map(has);
        let wanted = match name {
            "llama-bias" => [true, true, true, false],
            "qwen2" => [true, false, false, false],
            "qwen3" | "qwen3-yarn" => [false, false, false, true],
            _ => [false; 4],
        };
        assert_eq!(optional, wanted, "{name}");
        let gqa = crate::model::gqa(spec, 0);
        let scaling = match name {
            "llama-linear" => RopeScaling::Linear { factor: 4.0 },
            "llama31" => RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 64,
            },
            "qwen3-yarn" => RopeScaling::Yarn {
                factor: 4.0,
                original_context: 64,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: 0.1 * 4.0_f64.ln() + 1.0,
                truncate: true,
            },
            _ => RopeScaling::None,
        };
        assert_eq!(gqa.rope.scaling, scaling, "{name}");
        let kind = if name == "mistral" { KvKind::Window(40) } else { KvKind::Full };
        assert_eq!((spec.kv_groups.len(), spec.kv_groups[0].kind), (1, kind), "{name}");
    }
}

/// What config.json says is what the weights' headers say, where all are of one type.
#[test]
fn a_folder_without_weights_is_described_by_its_settings() {
    for name in ["llama2", "llama-bias", "mistral", "qwen2", "qwen3", "qwen3-yarn"] {
        let path = scratch("folder-described");
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        std::fs::copy(tiny(name).join("config.json"), path.join("config.json")).unwrap();
        let (alone, whole) = (describe(&path).unwrap(), describe(&tiny(name)).unwrap());
        assert_eq!((alone.assumed, whole.assumed), (true, false));
        assert_eq!(alone.spec, whole.spec);
        assert_eq!(whole.spec, *Checkpoint::open(tiny(name)).unwrap().spec());
    }
    let path = scratch("folder-undescribed");
    let mut folder = Folder::new("LlamaForCausalLM", "llama");
    for (key, value, says) in [
        ("torch_dtype", json!("float8_e4m3fn"), "config.json: dtype \"float8_e4m3fn\" is not"),
        ("torch_dtype", json!(null), "neither dtype nor torch_dtype says how weights are stored"),
        ("num_hidden_layers", json!(u32::MAX), "4294967295 layers"),
    ] {
        folder.set("torch_dtype", json!("float16")).set(key, value).write(&path);
        std::fs::remove_file(path.join("model.safetensors")).unwrap();
        let error = describe(&path).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    // As published: quantised in a way of its own, it names no type. That is not why it is refused.
    let config = r#"{"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}"#;
    std::fs::write(path.join("config.json"), config).unwrap();
    let error = describe(&path).unwrap_err().to_string();
    assert!(error.contains("architecture Gemma3ForCausalLM"), "{error}");
}

#[test]
fn slices_come_out_of_the_right_file() {
    let folder = Folder::new("Qwen2ForCausalLM", "qwen2");
    let path = scratch("folder-split");
    folder.write_split(&path);
    let source = Checkpoint::open(&path).unwrap();
    let layout = &layouts(source.spec(), 2).unwrap()[1];
    let bias = source.spec().tensor("layers.1.attn.qkv.bias").unwrap();
    assert_eq!((bias.cut, bias.parts[0].rows, bias.parts[0].cols), (TensorCut::QkvHeads, 32, 1));
    let local = local_tensor(bias, layout).unwrap();
    for (part, rows) in local.parts.iter().zip([16..32, 8..16, 8..16]) {
        assert_eq!(part.dtype, DType::BF16);
        let mut out = vec![0; part.bytes() as usize];
        source.read_into(part, &mut out).unwrap();
        let bytes = (2 * rows.start..2 * rows.end).map(|index| byte_of(&part.source, index));
        assert!(bytes.eq(out), "{}", part.source);
    }
    let single = scratch("folder-single");
    folder.write(&single);
    let single = Checkpoint::open(&single).unwrap();
    assert_eq!(single.spec(), source.spec());
    assert_ne!(single.digest(), source.digest());
    assert_eq!(Checkpoint::open(&path).unwrap().digest(), source.digest());
}

#[test]
fn what_a_folder_may_lack() {
    let path = scratch("folder-lacks");
    Folder::new("LlamaForCausalLM", "llama").write_split(&path);
    let says = |wanted: &str| {
        let error = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    };
    for number in [2, 1] {
        std::fs::remove_file(path.join(format!("model-0000{number}-of-00002.safetensors")))
            .unwrap();
    }
    says(
        "it names 2 of 2 files that are missing: model-00001-of-00002.safetensors, model-00002-of",
    );
    let index = path.join("model.safetensors.index.json");
    std::fs::write(&index, json!({ "weight_map": { "a": "../b.safetensors" } }).to_string())
        .unwrap();
    says("\"../b.safetensors\" is not the name of a safetensors file beside it");
    std::fs::write(&index, "{}").unwrap();
    says("model.safetensors.index.json: not as it should be: missing field `weight_map`");
    std::fs::remove_file(&index).unwrap();
    says("it has neither model.safetensors nor model.safetensors.index.json");
    std::fs::write(path.join("config.json"), "{").unwrap();
    says("config.json: not as it should be: EOF");
    std::fs::remove_file(path.join("config.json")).unwrap();
    says("it has no config.json; give a folder");
}

#[test]
fn an_index_of_another_model() {
    let path = scratch("folder-foreign");
    let mut folder = Folder::new("LlamaForCausalLM", "llama");
    folder.write_split(&path);
    let index = std::fs::read_to_string(path.join("model.safetensors.index.json")).unwrap();
    let swapped =
        index.replace("\"model.norm.weight\":\"model-00002", "\"model.norm.weight\":\"model-00001");
    assert_ne!(index, swapped);
    std::fs::write(path.join("model.safetensors.index.json"), swapped).unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let wanted = "not where it says: model.norm.weight in model-00001";
    assert!(error.to_string().contains(wanted), "{error}");

    folder.tensors.push(folder.tensors[0].clone());
    folder.write_split(&path);
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(error.contains("has a tensor of this name too"), "{error}");
}

#[test]
fn tensors_that_do_not_fit() {
    let path = scratch("folder-tensors");
    let mut folder = Folder::new("LlamaForCausalLM", "llama");
    folder.tensors.retain(|tensor| tensor.name != "model.layers.1.mlp.up_proj.weight");
    folder.tensors.push(tensor("model.extra.weight", "F32", &[2]));
    folder.tensors.push(tensor("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[4]));
    folder.tensors[1].shape = vec![16];
    folder.write(&path);
    let error = Checkpoint::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let wanted = "lacks tensors: model.layers.1.mlp.up_proj.weight; it has tensors without a use \
                  in this architecture: model.extra.weight; it has tensors of another shape \
                  ([cols, rows]): model.layers.0.input_layernorm.weight is [16], not [32, 1]";
    assert!(error.to_string().contains(wanted), "{error}");
}

#[test]
fn links_lead_to_files_of_the_folder_or_to_blobs_of_the_hub_s_cache_and_nowhere_else() {
    let repository = crate::shards::absent("folder-links");
    let path = repository.join("snapshots/c0ffee");
    Folder::new("Qwen3ForCausalLM", "qwen3").write(&path);
    let away = |name: &str, to: &str| {
        let to = repository.join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::rename(path.join(name), &to).unwrap();
        to
    };
    away("model.safetensors", "blobs/12");
    symlink("../../blobs/12", path.join("model.safetensors")).unwrap();
    std::fs::rename(path.join("config.json"), path.join("other.json")).unwrap();
    symlink("other.json", path.join("config.json")).unwrap();
    Checkpoint::open(&path).unwrap();
    // Whoever names a folder may do so by a link to it.
    let named = repository.join("named");
    symlink(&path, &named).unwrap();
    Checkpoint::open(&named).unwrap();

    let settings = away("other.json", "elsewhere/config.json");
    std::fs::remove_file(path.join("config.json")).unwrap();
    for target in [settings.to_str().unwrap(), "../../elsewhere/config.json", "../../blobs/13"] {
        let _ = std::fs::remove_file(path.join("config.json"));
        symlink(target, path.join("config.json")).unwrap();
        if target.ends_with("13") {
            // A blob that is a link itself.
            symlink(&settings, repository.join("blobs/13")).unwrap();
        }
        let message = Checkpoint::open(&path).unwrap_err().to_string();
        let says = format!("a link out of the model's folder, to {}", settings.display());
        assert!(message.contains("config.json: cannot ") && message.contains(&says), "{message}");
        assert!(message.contains("cp -L"), "{message}");
    }
    // Without the cache's layout nothing is a blob.
    let plain = repository.join("plain");
    Folder::new("Qwen3ForCausalLM", "qwen3").write(&plain);
    std::fs::remove_file(plain.join("model.safetensors")).unwrap();
    symlink("../blobs/12", plain.join("model.safetensors")).unwrap();
    let message = Checkpoint::open(&plain).unwrap_err().to_string();
    assert!(message.contains("model.safetensors: cannot open: a link out of"), "{message}");
}

#[test]
fn settings_that_are_links_elsewhere_do_not_travel_with_shards() {
    let path = crate::shards::absent("folder-links-settings");
    Folder::new("Qwen3ForCausalLM", "qwen3").write(&path);
    let secret = path.with_file_name("folder-links-secret");
    std::fs::write(&secret, "secret").unwrap();
    symlink(&secret, path.join("tokenizer.json")).unwrap();
    let out = crate::shards::absent("folder-links-shards");
    let source = Checkpoint::open(&path).unwrap();
    let error = binfer_shard::shards::write(&source, 1, &out, |_| true).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: cannot read: a link out of"), "{error}");
    assert!(!out.exists());
}
