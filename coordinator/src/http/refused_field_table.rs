//! The tables of refused fields of a request: each with the values that ask for nothing, and what
//! to do instead.

use super::endpoint::Endpoint;
use super::refused_fields::Advice::{self, Do, Unsupported, UseField};
use super::refused_fields::RefusedField;

/// The tables of an endpoint's requests.
pub(super) fn of(endpoint: Endpoint) -> [&'static [RefusedField]; 3] {
    let own = match endpoint {
        Endpoint::Completion => COMPLETION,
        Endpoint::Chat => CHAT,
    };
    [OTHER_NAMES, EVERYWHERE, own]
}

/// One row of a table.
pub(super) const fn row(
    name: &'static str,
    neutral: &'static str,
    instead: Advice,
) -> RefusedField {
    RefusedField { name, neutral, instead }
}

const STRUCTURE: Advice = Unsupported("structured output");
pub(super) const TOOLS: Advice = Unsupported("tools");
const BEAMS: Advice = Unsupported("beam search");
const SAMPLERS: Advice = Unsupported("samplers other than top_k, top_p and min_p");
const PROMPT_LOGPROBS: Advice = Unsupported("logprobs of the prompt");
const TOP_LEVEL: Advice = Do("write its fields at the top level, by OpenAI's names");
const TEMPLATE: Advice = Unsupported("settings of the chat template in a request");
const REASONING: Advice =
    Do("reasoning is parsed as --reasoning-parser says when the server starts, \
                              and comes in reasoning_content");
const SERVER: Advice = Do("it is set when the server starts, by --max-model-len");

/// Names that other servers have for fields of ours.
const OTHER_NAMES: &[RefusedField] = &[
    row("n_predict", "[-1]", UseField("max_tokens")),
    row("num_predict", "[-1]", UseField("max_tokens")),
    row("max_new_tokens", "[]", UseField("max_tokens")),
    row("max_output_tokens", "[]", UseField("max_tokens")),
    row("max_tokens_to_sample", "[]", UseField("max_tokens")),
    row("max_gen_len", "[]", UseField("max_tokens")),
    row("max_length", "[]", UseField("max_tokens")),
    row("repeat_penalty", "[1]", UseField("repetition_penalty")),
    row("rep_pen", "[1]", UseField("repetition_penalty")),
    row("stop_sequences", "[[]]", UseField("stop")),
    row("stop_strings", "[[]]", UseField("stop")),
    row("stop_words", "[[]]", UseField("stop")),
    row("stopping_strings", "[[]]", UseField("stop")),
    row("custom_stopping_strings", r#"[[], ""]"#, UseField("stop")),
    row("ban_eos_token", "[false]", UseField("ignore_eos")),
    row("random_seed", "[-1]", UseField("seed")),
    row("sampling_seed", "[]", UseField("seed")),
    row("input_ids", "[]", UseField("prompt")),
    row("prompt_token_ids", "[]", UseField("prompt")),
    row("n_probs", "[0]", UseField("logprobs")),
    row("return_logprob", "[false]", UseField("logprobs")),
    row("details", "[false]", UseField("logprobs")),
    row("top_logprobs_num", "[0]", UseField("top_logprobs")),
    row("top_n_tokens", "[0]", UseField("top_logprobs")),
    row("do_sample", "[true]", UseField("temperature, which 0 makes greedy")),
    row("greedy", "[false]", UseField("temperature, which 0 makes greedy")),
    row("options", "[{}]", TOP_LEVEL),
    row("parameters", "[{}]", TOP_LEVEL),
    row("sampling_params", "[{}]", TOP_LEVEL),
    row("generation_config", "[{}]", TOP_LEVEL),
    row("extra_body", "[{}]", TOP_LEVEL),
];

/// Fields of both endpoints that would change an answer.
const EVERYWHERE: &[RefusedField] = &[
    row("num_return_sequences", "[1]", UseField("n")),
    row("use_beam_search", "[false]", BEAMS),
    row("num_beams", "[1]", BEAMS),
    row("num_beam_groups", "[1]", BEAMS),
    row("beam_width", "[1]", BEAMS),
    row("length_penalty", "[1]", BEAMS),
    row("diversity_penalty", "[0]", BEAMS),
    row("early_stopping", "[false]", BEAMS),
    row("min_length", "[0]", UseField("min_tokens")),
    row("min_new_tokens", "[0]", UseField("min_tokens")),
    row("eos_token_id", "[]", UseField("stop_token_ids")),
    row("stop_regex", r#"[[], ""]"#, Unsupported("patterns as stop strings")),
    row("no_stop_trim", "[false]", UseField("include_stop_str_in_output")),
    row("truncate", "[]", UseField("truncate_prompt_tokens")),
    row("truncation_length", "[]", SERVER),
    row("num_ctx", "[]", SERVER),
    row("n_ctx", "[]", SERVER),
    row("max_context_length", "[]", SERVER),
    row("n_keep", "[0]", Unsupported("shifting a context")),
    row("n_discard", "[0]", Unsupported("shifting a context")),
    row("context", "[[]]", Unsupported("a context of earlier answers")),
    row("session_params", "[{}]", Unsupported("a context of earlier answers")),
    row("prompt_logprobs", "[0]", PROMPT_LOGPROBS),
    row("decoder_input_details", "[false]", PROMPT_LOGPROBS),
    row("logprob_start_len", "[-1]", PROMPT_LOGPROBS),
    row("token_ids_logprob", "[[]]", Unsupported("logprobs of chosen tokens")),
    row("post_sampling_probs", "[false]", Unsupported("logprobs after sampling")),
    row("return_tokens_as_token_ids", "[false]", Unsupported("token ids in an answer")),
    row("return_tokens", "[false]", UseField("return_token_ids")),
    row("return_hidden_states", "[false]", Unsupported("hidden states in an answer")),
    row("return_full_text", "[false]", Unsupported("the prompt in an answer")),
    row("echo", "[false]", Unsupported("the prompt in an answer (echo)")),
    row("allowed_token_ids", "[]", Unsupported("a choice of tokens (allowed_token_ids)")),
    row("bad_words", "[[]]", Unsupported("forbidden words")),
    row("bad_words_ids", "[[]]", Unsupported("forbidden words")),
    row("banned_strings", r#"[[], ""]"#, Unsupported("forbidden words")),
    row("custom_token_bans", r#"[[], ""]"#, Unsupported("forbidden words")),
    row("suppress_tokens", "[[]]", Unsupported("forbidden words")),
    row("begin_suppress_tokens", "[[]]", Unsupported("forbidden words")),
    row("force_words_ids", "[[]]", Unsupported("forced words")),
    row("forced_bos_token_id", "[]", Unsupported("forced words")),
    row("forced_eos_token_id", "[]", Unsupported("forced words")),
    row("guided_json", "[]", STRUCTURE),
    row("guided_regex", r#"[""]"#, STRUCTURE),
    row("guided_choice", "[[]]", STRUCTURE),
    row("guided_grammar", r#"[""]"#, STRUCTURE),
    row("guided_whitespace_pattern", "[]", STRUCTURE),
    row("structured_outputs", "[]", STRUCTURE),
    row("structural_tag", "[]", STRUCTURE),
    row("response_format", r#"[{"type": "text"}]"#, STRUCTURE),
    row("format", r#"[""]"#, STRUCTURE),
    row("grammar", r#"[""]"#, STRUCTURE),
    row("grammar_triggers", "[[]]", STRUCTURE),
    row("json_schema", "[]", STRUCTURE),
    row("regex", r#"[""]"#, STRUCTURE),
    row("ebnf", r#"[""]"#, STRUCTURE),
    row("tools", "[[]]", TOOLS),
    row("tool_choice", r#"["none", "auto"]"#, TOOLS),
    row("functions", "[[]]", TOOLS),
    row("function_call", r#"["none", "auto"]"#, TOOLS),
    row("typical_p", "[1]", SAMPLERS),
    row("typ_p", "[1]", SAMPLERS),
    row("typical", "[1]", SAMPLERS),
    row("tfs_z", "[1]", SAMPLERS),
    row("tfs", "[1]", SAMPLERS),
    row("top_a", "[0]", SAMPLERS),
    row("top_n_sigma", "[0, -1]", SAMPLERS),
    row("top_h", "[]", SAMPLERS),
    row("mirostat", "[0]", SAMPLERS),
    row("mirostat_mode", "[0]", SAMPLERS),
    row("xtc_probability", "[0]", SAMPLERS),
    row("dynatemp_range", "[0]", SAMPLERS),
    row("dynamic_temperature", "[false]", SAMPLERS),
    row("smoothing_factor", "[0]", SAMPLERS),
    row("epsilon_cutoff", "[0]", SAMPLERS),
    row("eta_cutoff", "[0]", SAMPLERS),
    row("penalty_alpha", "[0]", SAMPLERS),
    row("min_keep", "[0, 1]", SAMPLERS),
    row("samplers", "[]", Unsupported("an order of samplers")),
    row("sampler_priority", "[]", Unsupported("an order of samplers")),
    row("sampler_order", "[]", Unsupported("an order of samplers")),
    row("temperature_last", "[false]", Unsupported("an order of samplers")),
    row("dry_multiplier", "[0]", Unsupported("the DRY penalty")),
    row("repeat_last_n", "[-1]", Unsupported("a window of penalties")),
    row("repetition_penalty_range", "[0]", Unsupported("a window of penalties")),
    row("no_repeat_ngram_size", "[0]", Unsupported("a penalty of n-grams")),
    row("encoder_repetition_penalty", "[1]", Unsupported("a penalty of what the prompt lacks")),
    row("guidance_scale", "[1]", Unsupported("guidance")),
    row("negative_prompt", r#"[""]"#, Unsupported("guidance")),
    row("watermark", "[false]", Unsupported("a watermark")),
    row("logits_processors", "[[]]", Unsupported("logits processors of a request")),
    row("custom_logit_processor", r#"[""]"#, Unsupported("logits processors of a request")),
    row("penalize_nl", "[false]", Unsupported("a penalty of line ends")),
    row("n_indent", "[0]", Unsupported("a least indent")),
    row("t_max_predict_ms", "[0]", Unsupported("a time limit of an answer")),
    row("kv_transfer_params", "[{}]", Unsupported("transfer of KV caches")),
    row("vllm_xargs", "[{}]", Unsupported("arguments of extensions")),
    row("lora", "[[]]", Unsupported("LoRA adapters")),
    row("lora_path", "[]", Unsupported("LoRA adapters")),
    row("adapter_id", "[]", Unsupported("LoRA adapters")),
    row("thinking_token_budget", "[]", Unsupported("a budget for thinking")),
];

/// Fields of chats that would change an answer.
const CHAT: &[RefusedField] = &[
    row("prompt", "[]", Do("a chat has messages; prompt belongs to /v1/completions")),
    row("input", "[]", UseField("messages")),
    row("inputs", "[]", UseField("messages")),
    row("system", r#"[""]"#, Do("put it first into messages, with the role system")),
    row("instructions", r#"[""]"#, Do("put it first into messages, with the role system")),
    row("audio", "[]", Unsupported("audio")),
    row("modalities", r#"[["text"]]"#, Unsupported("anything but text")),
    row("images", "[[]]", Unsupported("anything but text")),
    row("web_search_options", "[]", Unsupported("search in the web")),
    row("documents", "[[]]", Unsupported("documents beside messages")),
    row("reasoning_effort", "[]", TEMPLATE),
    row("reasoning", "[{}]", TEMPLATE),
    row("reasoning_format", r#"["auto", "deepseek"]"#, REASONING),
    row("separate_reasoning", "[true]", REASONING),
    row("stream_reasoning", "[true]", REASONING),
    row("include_reasoning", "[true]", REASONING),
    row("verbosity", r#"["medium"]"#, TEMPLATE),
    row("think", "[]", TEMPLATE),
    row("thinking", "[]", TEMPLATE),
    row("enable_thinking", "[]", TEMPLATE),
    row("thinking_budget", "[]", Unsupported("a budget for thinking")),
    row("template", r#"[""]"#, TEMPLATE),
    row("chat_template", r#"[""]"#, TEMPLATE),
    row("chat_template_kwargs", "[{}]", TEMPLATE),
    row("add_generation_prompt", "[true]", TEMPLATE),
    row("continue_final_message", "[false]", TEMPLATE),
    row("continue", "[false]", TEMPLATE),
    row("mm_processor_kwargs", "[{}]", Unsupported("anything but text")),
];

/// Fields of completions that would change an answer.
const COMPLETION: &[RefusedField] = &[
    row("messages", "[]", Do("a completion has a prompt; messages belong to /v1/chat/completions")),
    row("input", "[]", UseField("prompt")),
    row("inputs", "[]", UseField("prompt")),
    row("text", "[]", UseField("prompt")),
    row("top_logprobs", "[0]", UseField("logprobs")),
    row("system", r#"[""]"#, Do("put it before the prompt")),
    row("suffix", r#"[""]"#, Unsupported("a suffix")),
    row("input_prefix", r#"[""]"#, Unsupported("a suffix")),
    row("input_suffix", r#"[""]"#, Unsupported("a suffix")),
    row("prompt_embeds", "[]", Unsupported("embeddings as a prompt")),
    row("input_embeds", "[]", Unsupported("embeddings as a prompt")),
    row("add_bos_token", "[true]", UseField("add_special_tokens")),
    row("raw", "[true]", Do("the template is applied by /v1/chat/completions")),
    row("images", "[[]]", Unsupported("anything but text")),
    row("image_data", "[[]]", Unsupported("anything but text")),
];

/// Fields that change no answer here, whatever their value: settings of what is refused above, and
/// fields about cost, accounts and other servers.
pub(super) const WITHOUT_EFFECT: &[&str] = &[
    "user",
    // No vocabulary that is served writes spaces between them.
    "spaces_between_special_tokens",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "prediction",
    "parallel_tool_calls",
    "max_tool_calls",
    "request_id",
    "rid",
    "priority",
    "keep_alive",
    "cache_prompt",
    "id_slot",
    "slot_id",
    "timings_per_token",
    "return_progress",
    "guided_decoding_backend",
    "mirostat_tau",
    "mirostat_eta",
    "xtc_threshold",
    "dynatemp_exponent",
    "dynatemp_low",
    "dynatemp_high",
    "smoothing_curve",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "penalty_last_n",
    "grammar_lazy",
    "mode",
];
