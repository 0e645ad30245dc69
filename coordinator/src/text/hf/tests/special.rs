//! Special tokens of side files against what transformers makes of them
//! (`tests/fixtures/tokens/special.json`), and tokens that end an answer.

use super::{FolderCopy, NAMES};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
struct Fixture {
    tokenizers: Vec<Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    files: BTreeMap<String, Value>,
    tokenizer: usize,
    hidden: Vec<u32>,
    eos: u32,
    whole: Vec<String>,
    q: Vec<u32>,
}

#[test]
fn side_files_are_read_as_transformers_reads_them() {
    let path = "../tests/fixtures/tokens/special.json";
    let fixture = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let fixture: Fixture = serde_json::from_slice(&fixture).unwrap();
    assert!(fixture.cases.len() > 60);
    for case in fixture.cases {
        let tokenizer = fixture.tokenizers[case.tokenizer].to_string();
        let copy = FolderCopy::of(&[(NAMES[0], tokenizer)]);
        for (name, content) in &case.files {
            copy.write(name, content.to_string().as_bytes());
        }
        let (model, files) = (copy.open().unwrap(), &case.files);
        let hidden = |id: &u32| model.facts.decode(&[*id]).is_empty();
        let hidden: Vec<u32> = (256..260).filter(hidden).collect();
        assert_eq!(hidden, case.hidden, "{files:?}");
        assert!(model.facts.end_ids().contains(&case.eos), "{files:?}");
        let whole = |text: &&str| model.encode(text, false).unwrap().len() == 1;
        let whole: Vec<&str> = ["<w>", "<|tool|>"].into_iter().filter(whole).collect();
        assert_eq!(whole, case.whole, "{files:?}");
        assert_eq!(model.encode_prompt("q").unwrap(), case.q, "{files:?}");
    }
}

#[test]
fn tokens_that_end_an_answer_come_from_all_files_and_their_names() {
    let copy = FolderCopy::qwen3();
    copy.edit(NAMES[2], |config| config["eos_token_id"] = 7.into());
    let ends = |copy: &FolderCopy| copy.open().unwrap().facts.end_ids().to_vec();
    assert_eq!(ends(&copy), [7, 349, 351], "generation_config.json, and special tokens by name");
    let renamed = |copy: &FolderCopy, from: &str, to: &str| {
        copy.edit(NAMES[0], |tokenizer| {
            let tokens = tokenizer["added_tokens"].as_array_mut().unwrap();
            let token = tokens.iter_mut().find(|token| token["content"] == from).unwrap();
            token["content"] = to.into();
        });
    };
    // tokenizer_config.json knows the old names.
    copy.write(NAMES[1], br#"{"eos_token": "<|b|>"}"#);
    renamed(&copy, "<|im_end|>", "<|b|>");
    assert_eq!(ends(&copy), [7, 349, 351], "eos_token");
    renamed(&copy, "<|endoftext|>", "<|a|>");
    assert_eq!(ends(&copy), [7, 351]);
    copy.write("special_tokens_map.json", br#"{"eos_token": {"content": "<|a|>"}}"#);
    assert_eq!(ends(&copy), [7, 349], "special_tokens_map.json has the last word");
    copy.write("special_tokens_map.json", b"{}");
    copy.write(NAMES[1], b"{}");
    copy.write(NAMES[2], b"{}");
    copy.write(NAMES[3], b"{}");
    // As with transformers, the model can be used all the same.
    let model = copy.open().unwrap();
    assert!(model.facts().end_ids().is_empty());
    let [note] = model.facts().notes() else { panic!("{:?}", model.facts().notes()) };
    assert!(note.contains("no token that ends an answer (eos_token_id)"), "{note}");
    copy.write(NAMES[3], json!({ "eos_token_id": [3, 5] }).to_string().as_bytes());
    assert_eq!(ends(&copy), [3, 5], "config.json");
}
