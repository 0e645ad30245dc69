//! A vocabulary of bytes, small enough to be written by hand: ids 0 to 2 are control tokens, byte
//! `b` is token `3 + b`, and a few merges follow.

use super::{TextData, TextModel, TokenKind, TokenizerFamily};
use binfer_proto::Token;

/// The demo model's chat template.
pub(crate) const CHATML: &str = "{% for message in messages %}{% if loop.first and \
     messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe brief<|im_end|>\n' }}\
     {% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + \
     '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Ends an answer.
pub(crate) const END: Token = 2;

/// The data of the small vocabulary.
pub(crate) fn data() -> TextData {
    let mut tokens: Vec<String> =
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned).into();
    tokens.extend((0..=255_u8).map(written));
    let merges = ["h e", "l l", "he ll", "hell o", "Ġ w"];
    tokens.extend(merges.map(|merge| merge.replace(' ', "")));
    let mut kinds = vec![TokenKind::Normal; tokens.len()];
    kinds[..3].fill(TokenKind::Control);
    TextData {
        family: TokenizerFamily::ByteLevel,
        pre: "smollm".into(),
        tokens,
        kinds,
        merges: merges.map(str::to_owned).into(),
        scores: Vec::new(),
        add_space_prefix: false,
        unknown: None,
        bos: Some(1),
        eos: Some(END),
        more_ends: Vec::new(),
        add_bos: false,
        add_eos: false,
        chat_template: Some(CHATML.into()),
    }
}

/// The model with the small vocabulary.
pub(crate) fn model() -> TextModel {
    TextModel::new(&data()).unwrap()
}

/// A model of the small vocabulary with more tokens behind it, and another template.
fn model_with(more: &[&str], kind: TokenKind, chat_template: &str) -> TextModel {
    let mut data = data();
    data.tokens.extend(more.iter().map(|&name| name.to_owned()));
    data.kinds.resize(data.tokens.len(), kind);
    data.chat_template = Some(chat_template.into());
    TextModel::new(&data).unwrap()
}

/// The tokens of [`harmony`] that are markup.
pub(crate) const HARMONY_MARKS: [&str; 7] = [
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|constrain|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
];

/// A model whose answers are in harmony.
pub(crate) fn harmony() -> TextModel {
    let template = "{% for message in messages %}<|start|>{{ message.role }}<|message|>\
                    {{ message.content }}{% if message.thinking %} ({{ message.thinking }})\
                    {% endif %}<|end|>{% endfor %}<|start|>assistant";
    model_with(&HARMONY_MARKS, TokenKind::Control, template)
}

/// A model that thinks first; the tags are tokens, or text of which the vocabulary knows nothing.
pub(crate) fn thinking(more: &[&str]) -> TextModel {
    let template = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
                    {{ message.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}\
                    <|im_start|>assistant\n";
    model_with(more, TokenKind::Added, template)
}

/// The tokens of a text in which a model's special tokens are recognised.
pub(crate) fn tokens(model: &TextModel, text: &str) -> Vec<Token> {
    model.encode(text, false).unwrap().get_ids().to_vec()
}

/// How many tokens a model has.
pub(crate) fn vocab_len(model: &TextModel) -> u32 {
    u32::try_from(model.tokenizer.get_vocab_size(true)).unwrap()
}

/// Tokens that stand for these bytes, one each.
pub(crate) fn byte_tokens(bytes: &[u8]) -> Vec<Token> {
    bytes.iter().map(|byte| 3 + Token::from(*byte)).collect()
}

/// GPT-2's way to write a byte.
fn written(byte: u8) -> String {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if plain(byte) {
        return char::from(byte).to_string();
    }
    let before = (0..byte).filter(|other| !plain(*other)).count();
    char::from_u32(256 + u32::try_from(before).unwrap()).unwrap().to_string()
}
