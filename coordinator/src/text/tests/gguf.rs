//! What GGUF files say of tokens, against what llama.cpp's vocabulary loader makes of the same
//! keys.

use super::super::{TextData, TextModel, TokenizerFamily};
use binfer_shard::gguf::Gguf;
use gguf_writer::GgufWriter;

#[path = "../../../../shard-tool/tests/support/gguf_writer.rs"]
mod gguf_writer;

const CONTROL: i32 = 3;
const ADDED: i32 = 4;

/// The text of a byte-level file with the tokens "a", "b", "ab" and these, from id 3 on.
fn data(tokens: &[(&str, i32)], change: impl FnOnce(&mut GgufWriter)) -> TextData {
    TextData::from_gguf(&gguf(tokens, change).metadata).unwrap()
}

fn gguf(tokens: &[(&str, i32)], change: impl FnOnce(&mut GgufWriter)) -> Gguf {
    let words: Vec<&str> = ["a", "b", "ab"].into_iter().chain(tokens.iter().map(|t| t.0)).collect();
    let kinds: Vec<i32> = [1; 3].into_iter().chain(tokens.iter().map(|t| t.1)).collect();
    let mut writer = GgufWriter::default();
    writer.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "gpt-2");
    writer.strings("tokenizer.ggml.tokens", &words).i32s("tokenizer.ggml.token_type", &kinds);
    writer.strings("tokenizer.ggml.merges", &["a b"]);
    change(&mut writer);
    let path = std::env::temp_dir().join(format!(
        "binfer-text-{}-{:?}.gguf",
        std::process::id(),
        std::thread::current().id()
    ));
    writer.write(&path);
    let file = std::fs::File::open(&path).unwrap();
    let bytes = file.metadata().unwrap().len();
    let gguf = Gguf::read(&file, &path, bytes).unwrap();
    std::fs::remove_file(path).unwrap();
    gguf
}

fn ends(tokens: &[(&str, i32)], change: impl FnOnce(&mut GgufWriter)) -> Vec<u32> {
    data(tokens, change).end_ids()
}

#[test]
fn an_answer_ends_where_llama_cpp_ends_it() {
    let eos = |writer: &mut GgufWriter| {
        writer.u32("tokenizer.ggml.eos_token_id", 4);
    };
    for kind in [1, CONTROL, ADDED] {
        assert_eq!(ends(&[("<|im_end|>", kind), ("<x>", CONTROL)], eos), [3, 4], "type {kind}");
    }
    for name in [
        "<|end_of_text|>",
        "<|eom_id|>",
        "_<EOT>",
        "[EOT]",
        "<eos>",
        "</s>",
        "<|return|>",
        "<|eot_id|>",
        "<|end|>",
        "<end_of_turn>",
        "<｜end▁of▁sentence｜>",
        "<|fim_pad|>",
    ] {
        assert_eq!(ends(&[(name, CONTROL), ("<x>", CONTROL)], eos), [3, 4], "{name}");
    }
    assert_eq!(ends(&[("<|myend|>", CONTROL), ("<x>", CONTROL)], eos), [4]);
    for key in ["eot", "eom", "fim_pad", "fim_rep", "fim_sep"] {
        let named = ends(&[("<|myend|>", CONTROL), ("<x>", CONTROL)], |writer| {
            eos(writer);
            writer.u32(&format!("tokenizer.ggml.{key}_token_id"), 3);
        });
        assert_eq!(named, [3, 4], "{key}");
    }
    let far = ends(&[("<x>", CONTROL)], |writer| {
        writer.u32("tokenizer.ggml.eos_token_id", 77);
    });
    assert_eq!(far, [0; 0], "no such token");
}

#[test]
fn a_message_of_many_ends_no_answer() {
    let harmony = [("<|return|>", CONTROL), ("<|call|>", CONTROL), ("<|end|>", CONTROL)];
    assert_eq!(ends(&harmony, |_| {}), [3, 4]);
    assert_eq!(ends(&harmony[1..], |_| {}), [3, 4], "without <|return|> it does");
    let tags = [("<|tool_response>", CONTROL), ("</s>", 1)];
    assert_eq!(ends(&tags, |_| {}), [3]);
}

#[test]
fn what_ends_an_answer_is_no_part_of_it_whatever_its_type() {
    let data = data(&[("<|im_end|>", 1), ("<tag>", ADDED)], |_| {});
    let model = TextModel::new(&data).unwrap();
    assert_eq!(model.encode_prompt("ab<|im_end|><tag>").unwrap(), [2, 3, 4]);
    assert_eq!(model.facts().decode(&[2, 3, 4]), "ab<tag>");
}

#[test]
fn sentence_pieces_have_their_usual_tokens_where_the_file_is_silent() {
    let data = data(&[], |writer| {
        writer.string("tokenizer.ggml.model", "llama");
    });
    assert_eq!(data.family, TokenizerFamily::SentencePiece);
    assert_eq!((data.unknown, data.bos, data.eos), (Some(0), Some(1), Some(2)));
}

#[test]
fn a_file_without_a_kind_splits_as_llama_cpp_does_then() {
    let silent = data(&[], |writer| {
        writer.remove("tokenizer.ggml.pre");
    });
    assert_eq!(silent.pre, "default");
    assert!(!silent.add_bos);
    assert_eq!(TextModel::new(&silent).unwrap().encode_prompt("ab").unwrap(), [2]);
}

/// llama.cpp appends the token to a text that it tokenises with `add_special`.
#[test]
fn a_plain_prompt_ends_with_eos_where_the_file_says_so() {
    let prompt = |add_eos: Option<bool>, eos: u32| {
        let data = data(&[("<x>", CONTROL), ("</s>", CONTROL)], |writer| {
            writer.u32("tokenizer.ggml.eos_token_id", eos).u32("tokenizer.ggml.bos_token_id", 3);
            writer.bool("tokenizer.ggml.add_bos_token", true);
            if let Some(add_eos) = add_eos {
                writer.bool("tokenizer.ggml.add_eos_token", add_eos);
            }
        });
        TextModel::new(&data).unwrap().encode_prompt("ab").unwrap()
    };
    assert_eq!(prompt(Some(true), 4), [3, 2, 4]);
    assert_eq!(prompt(Some(false), 4), [3, 2]);
    assert_eq!(prompt(None, 4), [3, 2]);
    assert_eq!(prompt(Some(true), 77), [3, 2], "no such token");
}

#[test]
fn a_model_without_an_end_token_is_used_and_told_of() {
    let gguf = gguf(&[("<x>", CONTROL)], |_| {});
    let model = TextModel::from_gguf(&gguf.metadata).unwrap();
    assert!(model.facts().end_ids().is_empty());
    let [note] = model.facts().notes() else { panic!("{:?}", model.facts().notes()) };
    assert!(note.contains("no token that ends an answer (eos_token_id)"), "{note}");
}
