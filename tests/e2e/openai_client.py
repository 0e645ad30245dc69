"""What people do with OpenAI's client, done to a binfer server. Run by `api.rs`.

    openai_client.py BASE_URL ANSWER

ANSWER is the greedy answer of the demo model to "What is the capital of France?".
"""

import sys

import openai

URL, ANSWER = sys.argv[1:]
CHAT = [{"role": "user", "content": "What is the capital of France?"}]
client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0, timeout=60)


def models():
    names = [model.id for model in client.models.list()]
    assert names == ["demo"], names
    assert client.models.retrieve("demo").id == "demo"


def chat_whole():
    answer = client.chat.completions.create(model="demo", messages=CHAT, temperature=0)
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == (ANSWER, "stop"), choice
    assert choice.message.role == "assistant"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (37, 8), usage
    assert usage.total_tokens == 45, usage


def chat_streamed():
    chunks = list(client.chat.completions.create(
        model="demo", messages=CHAT, temperature=0, stream=True,
        stream_options={"include_usage": True},
    ))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert (text, reasons) == (ANSWER, ["stop"]), (text, reasons)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == 8 and not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1


def chat_in_parts():
    parts = [{"type": "text", "text": CHAT[0]["content"]}]
    answer = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": parts}], temperature=0,
        max_completion_tokens=3,
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "length" and ANSWER.startswith(choice.message.content), choice


def completion_whole():
    answer = client.completions.create(
        model="demo", prompt="Once upon a time", temperature=0, max_tokens=9)
    choice = answer.choices[0]
    assert choice.text == ", the city of Nova Haven was a thriving", choice
    assert (choice.finish_reason, answer.usage.completion_tokens) == ("length", 9), answer


def completion_streamed():
    stream = client.completions.create(
        model="demo", prompt=[6403, 1980, 253, 655], temperature=0, max_tokens=9, stream=True)
    text = "".join(chunk.choices[0].text for chunk in stream)
    assert text == ", the city of Nova Haven was a thriving", text


def stop_string():
    answer = client.completions.create(
        model="demo", prompt="Once upon a time", temperature=0, max_tokens=40, stop=["Nova Hav"])
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason) == (", the city of ", "stop"), choice


def seeds():
    def draw(seed):
        return client.completions.create(
            model="demo", prompt="Once", temperature=1.0, top_p=0.9, max_tokens=12, seed=seed,
        ).choices[0].text
    assert draw(5) == draw(5)
    assert len({draw(seed) for seed in range(5)}) > 1


def logprobs_of_chats():
    asked = {"model": "demo", "messages": CHAT, "temperature": 0, "logprobs": True, "top_logprobs": 3}
    choice = client.chat.completions.create(**asked).choices[0]
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content == ANSWER, tokens
    assert bytes(sum((token.bytes for token in tokens), [])).decode() == ANSWER, tokens
    for token in tokens:
        tops = token.top_logprobs
        assert len(tops) == 3 and tops[0].token == token.token, token
        assert 0 >= tops[0].logprob == token.logprob >= tops[1].logprob >= tops[2].logprob, token
    streamed = [token for chunk in client.chat.completions.create(**asked, stream=True)
                if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert streamed == tokens, (streamed, tokens)


def logprobs_of_completions():
    answer = client.completions.create(
        model="demo", prompt="Once upon a time", temperature=0, max_tokens=9, logprobs=2)
    choice = answer.choices[0]
    found = choice.logprobs
    assert "".join(found.tokens) == choice.text, choice
    ends = [offset + len(token) for offset, token in zip(found.text_offset, found.tokens)]
    assert found.text_offset == [0] + ends[:-1] and ends[-1] == len(choice.text), found
    for token, logprob, tops in zip(found.tokens, found.token_logprobs, found.top_logprobs):
        assert len(tops) == 2 and tops[token] == logprob == max(tops.values()), (token, tops)


def penalties():
    """Each greedy token is the best of the likely ones, less what its earlier copies cost."""
    asked = {"frequency_penalty": 0.6, "presence_penalty": 0.9}
    changed = 0
    for prompt in ["dog dog dog dog", "Once upon a time", "Once upon a time"]:
        choice = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": prompt}], temperature=0,
            max_tokens=60, logprobs=True, top_logprobs=20, **asked).choices[0]
        seen = {}
        for token in choice.logprobs.content:
            def score(top):
                count = seen.get(top.token, 0)
                return top.logprob - 0.6 * count - 0.9 * (count > 0)
            best = max(token.top_logprobs, key=score)
            assert best.token == token.token, (token, best)
            changed += best.token != token.top_logprobs[0].token
            seen[token.token] = seen.get(token.token, 0) + 1
    assert changed > 3, changed


def repetition():
    """The texts are those of transformers 5.23.0: generate(do_sample=False, repetition_penalty=...)."""
    for penalty, text in [
        (1.3, ", the city of Nova Haven was ruled by a powerful sorcerer named Kraelion. He had been tasked with"),
        (0.8, ", a group of friends, Alex, Ben, and Chris, a group of friends, had a disagreement and had a"),
    ]:
        choice = client.completions.create(
            model="demo", prompt="Once upon a time", temperature=0, max_tokens=24, logprobs=0,
            extra_body={"repetition_penalty": penalty}).choices[0]
        assert choice.text == text, choice
        # Logprobs are those of the model, whatever the penalty; this one is transformers', too.
        assert abs(choice.logprobs.token_logprobs[0] + 0.0755) < 1e-3, choice


def biases():
    def say(**fields):
        return client.completions.create(
            model="demo", prompt="Once upon a time", temperature=0, max_tokens=9, **fields,
        ).choices[0].text
    assert say(logit_bias={28: -100}).startswith(" "), "the comma was banned"
    assert say(logit_bias={"253": 100}) == " a" * 9
    # min-p of 1 leaves the most likely token alone.
    assert say(extra_body={"min_p": 1.0, "temperature": 1.5}) == ", the city of Nova Haven was a thriving"


def leaves_early():
    with client.completions.create(
        model="demo", prompt="Once", max_tokens=2000, stream=True, extra_body={"ignore_eos": True},
    ) as stream:
        assert next(iter(stream)).choices[0].text
    completion_whole()


def bad_requests():
    for fields, param in [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"n": 129}, "n"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"49152": 1}}, "logit_bias"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"logprobs": 6}, "logprobs"),
        ({"extra_body": {"min_p": 1.1}}, "min_p"),
        ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty"),
    ]:
        try:
            client.completions.create(model="demo", prompt="x", **fields)
        except openai.BadRequestError as error:
            assert error.param == param, (error.param, param)
            assert param in error.message, error.message
        else:
            raise AssertionError(f"{fields} was taken")


def unknown_model():
    try:
        client.completions.create(model="gpt-9", prompt="x")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error
    else:
        raise AssertionError("a model that is not there answered")


CHECKS = [
    models, chat_whole, chat_streamed, chat_in_parts, completion_whole, completion_streamed,
    stop_string, seeds, logprobs_of_chats, logprobs_of_completions, penalties, repetition, biases,
    leaves_early, bad_requests, unknown_model,
]
for check in CHECKS:
    check()
    print(check.__name__)
print(f"all {len(CHECKS)} checks passed")
