//! Tokenizer and chat template of the demo model against the goldens.

use binfer_coordinator::text::{ControlTokens, TextData, TextModel, build_tokenizer};
use binfer_shard::Checkpoint;

use crate::corpus::Corpus;
use crate::harness::{goldens, model_path, repository, tokenizer_lines};

#[test]
fn every_line_has_the_tokens_of_the_golden() {
    let source = Checkpoint::open(model_path()).unwrap();
    let text = TextModel::from_source(&source).unwrap();
    let data = TextData::from_gguf(&source.gguf().unwrap().metadata).unwrap();
    let plain = build_tokenizer(&data, ControlTokens::Text).unwrap();
    let lines = tokenizer_lines();
    assert!(lines.len() >= 80, "{} lines", lines.len());
    for (line, special, ids, decoded) in lines {
        assert_eq!(text.encode_prompt(&line).unwrap(), special, "{line:?}, control tokens parsed");
        let encoded = plain.encode(line.as_str(), true).unwrap();
        assert_eq!(encoded.get_ids(), ids, "{line:?}, control tokens as text");
        assert_eq!(text.facts().decode(&ids), decoded, "{line:?}, back again");
    }
}

#[test]
fn two_thousand_lines_in_many_scripts_have_the_tokens_of_the_golden() {
    let source = Checkpoint::open(model_path()).unwrap();
    let text = TextModel::from_source(&source).unwrap();
    let data = TextData::from_gguf(&source.gguf().unwrap().metadata).unwrap();
    let plain = build_tokenizer(&data, ControlTokens::Text).unwrap();
    let ids = |line: &str| plain.encode(line, true).unwrap().get_ids().to_vec();
    let corpus = Corpus::read(&repository(""));
    corpus.check("demo", ids);
    corpus.check("demo_special", |line| text.encode_prompt(line).unwrap());
    corpus.check("demo_text", |line| text.facts().decode(&ids(line)));
}

#[test]
fn every_prompt_and_chat_has_the_tokens_of_the_golden() {
    let source = Checkpoint::open(model_path()).unwrap();
    let text = TextModel::from_source(&source).unwrap();
    for golden in goldens() {
        let ids = match &golden.text {
            Some(prompt) => text.encode_prompt(prompt).unwrap(),
            None => text.encode_chat(&golden.chat()).unwrap(),
        };
        assert_eq!(ids, golden.prompt_ids, "{}", golden.name);
        let answer = text.facts().decode(&golden.ids[..golden.text_tokens]);
        assert_eq!(answer, golden.generated, "{}", golden.name);
    }
}
