"""Every parameter at its worst, while another stream goes on unchanged. Run over real sockets with an ordinary client."""
import json
import socket
import threading
import time

import httpx
import pytest

GOOD = {"model": "trireme-demo", "messages": [{"role": "user", "content": "What is git?"}], "temperature": 0, "max_tokens": 4}
NUMBERS = ["temperature", "top_p", "top_k", "min_p", "n", "max_tokens", "max_completion_tokens", "min_tokens", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed", "top_logprobs",
           "logprobs", "priority"]
OTHERS = ["messages", "model", "stop", "logit_bias", "stop_token_ids", "stream", "stream_options", "tools", "ignore_eos", "response_format", "user", "tool_choice"]
WORST = ["-1", "0", "2147483648", "18446744073709551616", "1e309", "NaN", '"1"', "[]", "{}", "true", "null", '[[1]]', '{"a": -5}', '""', "-0.0", "1e-400"]


@pytest.fixture(scope="module")
def neighbour(server):
    """A stream that runs beside the tests again and again, and must always say the same."""
    stop = threading.Event()
    content = GOOD | {"max_tokens": 60, "ignore_eos": True, "stream": True}

    def one():
        with httpx.stream("POST", server.url + "/v1/chat/completions", json=content, timeout=60) as r:
            lines = [line[6:] for line in r.iter_lines() if line.startswith("data: ")]
        assert r.status_code == 200 and lines[-1] == "[DONE]", lines[-1:]
        return "".join(c["delta"].get("content") or "" for line in lines[:-1] for c in json.loads(line)["choices"])
    alone = one()
    assert "git" in alone
    seen = []

    def run():
        while not stop.is_set():
            try:
                seen.append(one())
            except Exception as e:  # reported at the end, from the test's own thread
                seen.append(repr(e))
    t = threading.Thread(target=run)
    t.start()
    yield seen
    stop.set()
    t.join()
    assert seen and set(seen) == {alone}, set(seen) - {alone}


def post(server, content, path="/v1/chat/completions"):
    begin = time.monotonic()
    r = httpx.post(server.url + path, content=content, headers={"Content-Type": "application/json"}, timeout=30)
    return r, time.monotonic() - begin


def refused(r):
    assert 400 <= r.status_code < 500, (r.status_code, r.text[:300])
    error = r.json()["error"]
    assert error["message"] and error["type"]


# What of WORST is legal after all; everything else must be refused.
ZERO = {"0", "-0.0", "1e-400", "null"}
LEGAL = {field: {"null"} for field in NUMBERS + OTHERS} | {
    "temperature": ZERO, "min_p": ZERO, "min_tokens": ZERO, "top_logprobs": ZERO, "top_k": ZERO | {"-1"}, "presence_penalty": ZERO | {"-1"}, "frequency_penalty": ZERO | {"-1"},
    "priority": ZERO | {"-1"}, "seed": ZERO | {"-1", "2147483648"}, "logprobs": {"true", "null"}, "messages": set(), "stop": {'"1"', "[]", "null"}, "logit_bias": {"{}", "null"},
    "stop_token_ids": {"[]", "null"}, "stream": {"true", "null"}, "tools": {"[]", "null"}, "ignore_eos": {"true", "null"}, "user": {'"1"', '""', "null"}}


@pytest.mark.parametrize("field", NUMBERS + OTHERS)
def test_every_field_at_every_bad_value(server, neighbour, field):
    for value in WORST:
        fields = {k: json.dumps(v) for k, v in GOOD.items()} | {field: value}
        content = "{" + ", ".join(f'"{k}": {v}' for k, v in fields.items()) + "}"
        r, took = post(server, content)
        if value in LEGAL[field]:
            assert r.status_code == 200, (field, value, r.text[:300])
            continue
        refused(r)
        assert took < 1.0, (field, value, took)  # the goal is 100 ms on a quiet machine; CI machines are not


def test_bodies_that_are_not_requests(server, neighbour):
    for content in (b"", b"{", b"[]", b"null", b'"x"', b'{"model": "trireme-demo"', b"\xff\xfe{}", b'{"messages": "\xc3\x28"}', b"[" * 100 + b"]" * 100, b'{"a":' * 100 + b"1" + b"}" * 100,
                    b'{"model": "trireme-demo", "model": "x", "messages": []}', json.dumps(GOOD | {"messages": [{"role": "user", "content": "\ud800"}]}).encode()):
        r, _ = post(server, content)
        refused(r)


def test_a_prompt_longer_than_the_context(server, neighbour):
    r, _ = post(server, json.dumps(GOOD | {"messages": [{"role": "user", "content": "package " * 5000}]}))
    refused(r)
    assert "4096" in r.json()["error"]["message"]


def test_an_unknown_model_and_path(server, neighbour):
    r, _ = post(server, json.dumps(GOOD | {"model": "nope"}))
    assert r.status_code == 404 and r.json()["error"]["code"] == "model_not_found"
    assert httpx.get(server.url + "/v1/nothing").status_code == 404
    assert httpx.get(server.url + "/v1/chat/completions").status_code == 405


def test_a_body_of_a_gigabyte_is_refused_at_once(server, neighbour):
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\n\r\n")
        begin = time.monotonic()
        s.settimeout(5)
        assert s.recv(4096).startswith(b"HTTP/1.1 413")
        assert time.monotonic() - begin < 1.0


@pytest.mark.parametrize("content", [
    json.dumps(GOOD | {"tools": [{"type": "function", "function": {"name": "f", "description": " " * 8_000_000}}]}).encode(),
    b'{"x": [' + b"[]," * 2_000_000 + b"1]}",
    b'{"x": "' + b"y" * 8_000_000 + b'\x01"}',
    b'{"' + b"k" * 500_000 + b'": 1, "' + b"k" * 500_000 + b'": 2}',
], ids=["huge tool", "many values", "bad string", "long key twice"])
def test_a_large_bad_body_is_refused_quickly_and_briefly(server, neighbour, content):
    r, took = post(server, content)
    refused(r)
    assert len(r.content) < 2000
    assert took < 2.0


def test_a_body_without_end_is_cut_off(server, neighbour):
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        s.settimeout(20)
        chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        try:
            for _ in range(200):
                s.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            return
        raise AssertionError("200 MiB were taken")
