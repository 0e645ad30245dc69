//! Tokenizers of GGUF files against what Python's tokenizers and transformers say
//! (`tests/fixtures/tokens`).

use super::data::{TextData, TokenKind, TokenizerFamily};
use super::pre_tokenizer::PreTokenizerKind;
use super::testing::data;
use super::{Detokenizer, TextModel};
use proptest::prelude::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper,
};

/// A SentencePiece vocabulary as a GGUF file has it, and what becomes of lines.
#[derive(Deserialize)]
pub(super) struct PiecesFixture {
    tokens: Vec<String>,
    scores: Vec<f64>,
    kinds: Vec<i64>,
    #[serde(default)]
    lines: Vec<PiecesLine>,
}

#[derive(Deserialize)]
struct PiecesLine {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

fn fixture<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokens").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What a GGUF file with that vocabulary says.
pub(super) fn sentence_piece(pieces: &PiecesFixture) -> TextData {
    TextData {
        family: TokenizerFamily::SentencePiece,
        pre: "default".into(),
        tokens: pieces.tokens.clone(),
        kinds: pieces.kinds.iter().map(|kind| TokenKind::from_gguf(*kind)).collect(),
        merges: Vec::new(),
        scores: pieces.scores.clone(),
        add_space_prefix: true,
        unknown: Some(0),
        bos: Some(1),
        eos: Some(2),
        more_ends: Vec::new(),
        add_bos: true,
        add_eos: false,
        chat_template: None,
    }
}

static PIECES: LazyLock<PiecesFixture> = LazyLock::new(|| fixture("pieces.json"));
static MODEL: LazyLock<TextModel> =
    LazyLock::new(|| TextModel::new(&sentence_piece(&PIECES)).unwrap());

#[test]
fn pieces_are_those_of_transformers() {
    assert!(PIECES.lines.len() > 80);
    for PiecesLine { text, ids, decoded } in &PIECES.lines {
        let prompt = MODEL.encode_prompt(text).unwrap();
        assert_eq!((prompt[0], &prompt[1..]), (1, ids.as_slice()), "{text:?}");
        assert_eq!(&MODEL.facts.decode(&prompt), decoded, "{text:?}");
    }
    assert_eq!(MODEL.facts.end_ids(), [2]);
}

proptest! {
    #[test]
    fn streamed_pieces_equal_decoding_at_once(ids in prop::collection::vec(0_u32..900, 0..40)) {
        let (mut text, mut detokenizer) = (String::new(), Detokenizer::default());
        for id in &ids {
            let mut piece = String::new();
            detokenizer.push(&MODEL.facts.vocab, *id, &mut piece);
            text.push_str(&piece);
        }
        detokenizer.finish(&mut text);
        prop_assert_eq!(text, MODEL.facts.decode(&ids));
    }

    #[test]
    fn any_text_survives_the_way_there_and_back(text in "\\PC{0,20}") {
        prop_assume!(!text.contains('\u{2581}'));
        let ids = MODEL.encode_prompt(&text).unwrap();
        prop_assert_eq!(MODEL.facts.decode(&ids), text);
    }
}

#[test]
fn a_text_is_as_it_stands_without_the_prefix() {
    let model =
        TextModel::new(&TextData { add_space_prefix: false, ..sentence_piece(&PIECES) }).unwrap();
    let (with, without) = (MODEL.encode_prompt("x").unwrap(), model.encode_prompt("x").unwrap());
    assert_eq!((with.len(), without.len()), (3, 2));
    assert_eq!(model.facts.decode(&with), " x");
}

#[test]
fn scores_that_do_not_fit_are_refused() {
    let error = |data: TextData| TextModel::new(&data).unwrap_err().to_string();
    let short = error(TextData { scores: vec![0.0], ..sentence_piece(&PIECES) });
    assert!(short.contains("tokenizer.ggml.scores has 1 entries for"), "{short}");
    let mut long = sentence_piece(&PIECES);
    long.tokens[300] = "x".repeat(2000);
    assert!(error(long).contains("a piece of 2000 bytes"));
}

/// A line, cut.
pub(super) fn pieces_of(splitter: &PreTokenizerWrapper, line: &str) -> Vec<String> {
    let mut text = PreTokenizedString::from(line);
    splitter.pre_tokenize(&mut text).unwrap();
    let found = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
    found.into_iter().map(|(piece, ..)| piece.to_owned()).collect()
}

#[test]
fn splits_are_those_of_python() {
    let splits: BTreeMap<String, serde_json::Value> = fixture("splits.json");
    let lines: Vec<String> = serde_json::from_value(splits["lines"].clone()).unwrap();
    for name in ["gpt-2", "llama-bpe", "qwen2"] {
        let expected: Vec<Vec<String>> = serde_json::from_value(splits[name].clone()).unwrap();
        let splitter = PreTokenizerKind::named(name).unwrap().splitter().unwrap();
        for (line, expected) in lines.iter().zip(expected) {
            assert_eq!(pieces_of(&splitter, line), expected, "{name}: {line:?}");
        }
    }
}

#[test]
fn kinds_of_byte_level_tokenizers_differ_in_what_they_do_before() {
    let mut decomposed = NormalizedString::from("e\u{301}");
    PreTokenizerKind::named("qwen2")
        .unwrap()
        .normalizer()
        .unwrap()
        .normalize(&mut decomposed)
        .unwrap();
    assert_eq!(decomposed.get(), "é");
    assert!(PreTokenizerKind::named("llama3").unwrap().normalizer().is_none());
    // "hello" cannot be merged without its merges, but is a token.
    let data = |pre: &str| TextData { pre: pre.into(), merges: Vec::new(), ..data() };
    let ids = |pre: &str| TextModel::new(&data(pre)).unwrap().encode_prompt("hello").unwrap();
    assert_eq!(ids("llama-bpe"), [262]);
    assert_eq!(ids("qwen2").len(), 5);
}
