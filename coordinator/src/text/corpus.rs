//! 2,000 lines in many scripts: tokenizers out of GGUF metadata make of them what Python's do, and
//! streamed text equals text decoded at once.

use super::data::TextData;
use super::pre_tokenizer::PreTokenizerKind;
use super::pre_tokenizer_kinds::KINDS;
use super::reference::{PiecesFixture, pieces_of, sentence_piece};
use super::{AskedText, ReasoningFormat, ReasoningParser, TextKind, TextModel, TextStage};
use crate::sched::{Delivery, Finish, RequestId, Usage};
use binfer_proto::Token;
use lines::{Corpus, Digested};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

#[path = "../../tests/support/corpus.rs"]
mod lines;

fn corpus() -> Corpus {
    Corpus::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
}

/// The vocabulary of Mistral 7B, as much of it as the lines can use.
fn mistral(corpus: &Corpus) -> TextModel {
    let pieces: PiecesFixture = serde_json::from_value(corpus.json("spm.json")).unwrap();
    let data: TextData = sentence_piece(&pieces);
    assert!(data.tokens.len() > 2000);
    TextModel::new(&data).unwrap()
}

/// Ids of a line without the first token.
fn ids(model: &TextModel, line: &str) -> Vec<Token> {
    model.encode_prompt(line).unwrap().split_off(1)
}

#[test]
fn sentence_pieces_are_those_of_transformers_and_sentencepiece() {
    let corpus = corpus();
    let model = mistral(&corpus);
    corpus.check("spm", |line| ids(&model, line));
    corpus.check("spm_text", |line| model.facts.decode(&ids(&model, line)));
}

#[test]
fn pieces_before_merging_are_those_of_python() {
    let corpus = corpus();
    for name in ["gpt-2", "llama-bpe", "qwen2"] {
        let splitter = PreTokenizerKind::named(name).unwrap().splitter().unwrap();
        corpus.check(name, |line| pieces_of(&splitter, line));
    }
}

/// Kinds of one row of the table cut alike, so one of each row is in the fixture.
#[test]
fn every_kind_of_tokenizer_cuts_lines_as_its_pattern_does_in_python() {
    let corpus = corpus();
    let goldens: BTreeMap<String, String> =
        serde_json::from_value(corpus.json("pre.json")).unwrap();
    assert_eq!(goldens.len(), KINDS.len());
    for (names, pre) in KINDS {
        let golden = names.iter().find_map(|name| goldens.get(*name)).unwrap();
        let splitter = pre.splitter().unwrap();
        let together = corpus.lines.chunks(50).map(|lines| {
            let pieces = lines.iter().flat_map(|line| pieces_of(&splitter, line));
            lines::fnv(&pieces.collect::<Vec<_>>().bytes())
        });
        for (number, digest) in together.enumerate() {
            assert_eq!(digest, golden[8 * number..][..8], "{names:?}, lines from {}", 50 * number);
        }
    }
}

#[test]
fn text_in_random_pieces_is_the_text_at_once() {
    let corpus = corpus();
    let model = Arc::new(mistral(&corpus));
    let all: Vec<Token> = corpus.lines.iter().flat_map(|line| ids(&model, line)).collect();
    let mut random = 1_u64;
    let mut below = |end: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(random >> 33).unwrap() % end
    };
    let mut stage = TextStage::new(Arc::clone(model.facts()), ReasoningFormat::Off);
    // Answers from any token to any other: many begin and end within a character.
    for _ in 0..2000 {
        let start = below(all.len() - 60);
        let tokens = &all[start..start + 1 + below(60)];
        let (mut piecewise, mut rest) = (String::new(), tokens);
        let id = RequestId(1);
        stage.open(id, AskedText::default(), ReasoningParser::Off);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(1 + below(rest.len().min(5)));
            let finish = later.is_empty().then_some(Finish::Length);
            let usage = Usage::default();
            let delivery = Delivery {
                id,
                tokens: now.into(),
                logprobs: Vec::new(),
                finish,
                usage,
                end_token: None,
            };
            piecewise.push_str(&stage.push(&delivery).text.text_of(TextKind::Content));
            rest = later;
        }
        stage.close(id);
        let mut bytes: Vec<u8> =
            tokens.iter().flat_map(|id| model.facts.vocab.bytes(*id)).copied().collect();
        if bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        assert_eq!(piecewise, String::from_utf8_lossy(&bytes), "{tokens:?}");
        assert_eq!(piecewise, model.facts.decode(tokens), "{tokens:?}");
    }
}
