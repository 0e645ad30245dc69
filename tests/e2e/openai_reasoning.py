"""Reasoning, as people read it with OpenAI's client. Run by `reasoning.rs`.

    openai_reasoning.py BASE_URL TEXT

The server takes all that the model says, which is TEXT, for reasoning.
"""

import sys

import openai

URL, TEXT = sys.argv[1:]
CHAT = [{"role": "user", "content": "What is the capital of France?"}]
client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0, timeout=60)

answer = client.chat.completions.create(model="demo", messages=CHAT, temperature=0)
message = answer.choices[0].message
assert (message.reasoning_content, message.reasoning, message.content) == (TEXT, TEXT, None), message
assert answer.usage.completion_tokens_details.reasoning_tokens > 0, answer.usage

deltas = [chunk.choices[0].delta for chunk in client.chat.completions.create(
    model="demo", messages=CHAT, temperature=0, stream=True)]
text = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
assert text == TEXT, text
assert not any(delta.content for delta in deltas), deltas

# What was said is sent back as it came.
history = CHAT + [message.model_dump(exclude_none=True) | {"content": "Paris."}] + CHAT
client.chat.completions.create(model="demo", messages=history, temperature=0, max_tokens=1)
