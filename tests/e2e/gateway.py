"""The gateway SMG in front of a binfer server, asked as its clients do. Run by `grpc.rs`.

    gateway.py GRPC_ADDRESS ANSWER WORKER_PID

ANSWER is the greedy answer of the demo model to "What is the capital of France?". At the end the
worker with WORKER_PID is killed.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time

import grpc
import openai
from smg_grpc_proto.generated import vllm_engine_pb2, vllm_engine_pb2_grpc

ADDRESS, ANSWER, WORKER = sys.argv[1], sys.argv[2], int(sys.argv[3])
QUESTION = "What is the capital of France?"
CHAT = [{"role": "user", "content": QUESTION}]
PATIENCE_S = 120


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


PORT = free_port()
client = openai.OpenAI(
    base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none", max_retries=0, timeout=60)
engine = vllm_engine_pb2_grpc.VllmEngineStub(grpc.insecure_channel(ADDRESS))


@contextlib.contextmanager
def gateway():
    log = open("gateway.log", "w+", encoding="utf-8")
    words = [sys.executable, "-c", "from smg.cli import main; main()", "launch",
             "--host", "127.0.0.1", "--port", str(PORT), "--prometheus-port", str(free_port()),
             "--worker-urls", f"grpc://{ADDRESS}", "--disable-retries", "--log-level", "info"]
    process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    except BaseException:
        log.seek(0)
        print(log.read()[-8000:], file=sys.stderr)
        raise
    finally:
        process.kill()
        process.wait()
        log.close()


def post(path, body):
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def whole(path, body):
    response = post(path, body)
    text = response.read().decode()
    assert response.status == 200, (response.status, text)
    return json.loads(text)


def events(path, body):
    """The data of all events, as objects; what is no JSON as it is."""
    response = post(path, {**body, "stream": True})
    assert response.status == 200, (response.status, response.read())
    lines = response.read().decode().splitlines()
    data = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    return [json.loads(one) if one.startswith("{") else one for one in data]


def until(what, condition):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} took more than {PATIENCE_S} s")


def chat_or_none():
    with contextlib.suppress(openai.APIError):
        return client.chat.completions.create(
            model="demo", messages=CHAT, temperature=0, max_tokens=1)
    return None


def models():
    names = [model.id for model in client.models.list()]
    assert "demo" in names, names


def chat_whole():
    answer = client.chat.completions.create(model="demo", messages=CHAT, temperature=0)
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == (ANSWER, "stop"), choice
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (37, 8), answer.usage


def chat_streamed():
    chunks = list(client.chat.completions.create(
        model="demo", messages=CHAT, temperature=0, stream=True,
        stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    text = "".join(piece or "" for piece in pieces)
    assert (text, [reason for reason in reasons if reason]) == (ANSWER, ["stop"]), chunks
    assert len([piece for piece in pieces if piece]) > 3, pieces


def completion_whole():
    answer = client.completions.create(
        model="demo", prompt="Once upon a time", temperature=0, max_tokens=9)
    choice = answer.choices[0]
    assert choice.text == ", the city of Nova Haven was a thriving", choice
    assert (choice.finish_reason, answer.usage.completion_tokens) == ("length", 9), answer


def completion_streamed():
    stream = client.completions.create(
        model="demo", prompt="Once upon a time", temperature=0, max_tokens=9, stream=True)
    text = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
    assert text == ", the city of Nova Haven was a thriving", text


def stop_strings():
    asked = {"model": "demo", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 40,
             "stop": ["never", "Nova Hav"]}
    choice = client.completions.create(**asked).choices[0]
    assert (choice.text, choice.finish_reason) == (", the city of ", "stop"), choice
    chunks = [chunk.choices[0] for chunk in client.completions.create(**asked, stream=True)
              if chunk.choices]
    assert "".join(chunk.text for chunk in chunks) == ", the city of ", chunks
    assert chunks[-1].finish_reason == "stop", chunks


def logprobs():
    choice = client.chat.completions.create(
        model="demo", messages=CHAT, temperature=0, logprobs=True, top_logprobs=2).choices[0]
    found = choice.logprobs.content
    assert "".join(token.token for token in found).startswith(ANSWER), found
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in found), found


def messages():
    body = {"model": "demo", "max_tokens": 30, "temperature": 0, "messages": CHAT}
    answer = whole("/v1/messages", body)
    assert answer["content"][0]["text"] == ANSWER and answer["stop_reason"] == "end_turn", answer
    found = events("/v1/messages", body)
    deltas = [event["delta"].get("text", "") for event in found
              if event["type"] == "content_block_delta"]
    assert "".join(deltas) == ANSWER and found[-1]["type"] == "message_stop", found


def responses():
    body = {"model": "demo", "input": QUESTION, "temperature": 0, "max_output_tokens": 30,
            "store": False}
    answer = whole("/v1/responses", body)
    texts = [part["text"] for item in answer["output"] if item["type"] == "message"
             for part in item["content"]]
    assert "".join(texts) == ANSWER and answer["status"] == "completed", answer
    found = [event for event in events("/v1/responses", body) if isinstance(event, dict)]
    deltas = [event["delta"] for event in found if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == ANSWER, found
    assert found[-1]["type"] == "response.completed", found[-1]


def a_forced_tool_is_refused_with_its_reason():
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    try:
        client.chat.completions.create(
            model="demo", messages=CHAT, tools=[tool], tool_choice="required")
    except openai.BadRequestError as error:
        assert "not supported" in str(error), error
    else:
        raise AssertionError("a forced tool was taken")


def running():
    load = engine.GetLoads(vllm_engine_pb2.GetLoadsRequest()).loads[0]
    return load.num_total_reqs


def a_client_that_leaves_ends_its_request():
    stream = client.completions.create(
        model="demo", prompt="Once", max_tokens=7000, stream=True, temperature=0,
        extra_body={"ignore_eos": True})
    next(iter(stream))
    until("to run", lambda: running() == 1)
    stream.close()
    until("the end of a request that nobody reads", lambda: running() == 0)


def a_killed_worker_ends_streams_with_an_error():
    stream = client.completions.create(
        model="demo", prompt="Once", max_tokens=7000, stream=True, temperature=0,
        extra_body={"ignore_eos": True})
    next(iter(stream))
    os.kill(WORKER, signal.SIGKILL)
    reasons = []
    # An error of the client, or of the library beneath it.
    with contextlib.suppress(Exception):
        for chunk in stream:
            reasons.extend(choice.finish_reason for choice in chunk.choices)
    assert not any(reasons), "an answer that was cut off has no reason to finish"
    until("an error", lambda: chat_or_none() is None)


def main():
    with gateway():
        until("the gateway's start", chat_or_none)
        checks = [models, chat_whole, chat_streamed, completion_whole, completion_streamed,
                  stop_strings, logprobs, messages, responses,
                  a_forced_tool_is_refused_with_its_reason, a_client_that_leaves_ends_its_request,
                  a_killed_worker_ends_streams_with_an_error]
        for check in checks:
            began = time.monotonic()
            check()
            print(f"{check.__name__}: {time.monotonic() - began:.2f} s", flush=True)
    print(f"all {len(checks)} checks passed")


main()
