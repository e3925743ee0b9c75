"""The program itself: its flags, its exit codes, its start and its end."""
import asyncio
import json
import os
import shutil
import signal
import subprocess
import threading
import time

import httpx
import pytest

from conftest import DEVICE_FLAGS, MODEL, ROOT, TRIREME


def run(*args, **kw):
    return subprocess.run([TRIREME, *args], capture_output=True, text=True, timeout=60, **kw)


def test_version_and_help_say_what_there_is():
    begin = time.monotonic()
    assert run("--version").stdout.startswith("trireme ")
    text = run("--help").stdout
    for command in ("serve", "chat", "score", "eval", "inspect", "bench"):
        assert command in text
        assert "--" in run(command, "--help").stdout
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("args,says", [
    (["serve"], "--model"),
    (["serve", "--model", "/nonexistent"], "/nonexistent"),
    pytest.param(["serve", "--model", MODEL, "--device", "cuda"], "CUDA", marks=pytest.mark.cpu_only),
    (["serve", "--model", MODEL, "--max-model-len", "100000"], "4096"),
    (["serve", "--model", MODEL, "--kv-cache-dtype", "fp4"], "--kv-cache-dtype"),
    (["serve", "--model", MODEL, "--prefill-attention-dtype", "fp4"], "--prefill-attention-dtype"),
    (["serve", "--model", MODEL, "--device", "cpu", "--prefill-attention-dtype", "fp8"], "--device cuda"),
    (["serve", "--model", MODEL, "--port", "70000"], "port"),
    (["score", "--model", MODEL, "--input", "/nonexistent", "--output", "/tmp/x"], "/nonexistent"),
    (["bench", "decode", "--geometry", "nope", "--load-format", "dummy"], "nope"),
    (["nonsense"], "nonsense"),
    (["serve", "--modle", "x"], "--modle"),
])
def test_a_wrong_command_line_says_what_to_do(args, says):
    r = run(*args)
    assert r.returncode != 0
    assert says in r.stderr + r.stdout, r.stderr + r.stdout


def broken_model(tmp_path, change):
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    change(folder)
    return run("serve", "--model", str(folder), "--port", "0", *DEVICE_FLAGS)


def test_a_broken_checkpoint_is_refused_by_name(tmp_path):
    def truncate(folder):
        f = next(folder.glob("model-00002*"))
        with open(f, "r+b") as h:
            h.truncate(f.stat().st_size // 2)
    r = broken_model(tmp_path, truncate)
    assert r.returncode != 0 and "model-00002" in r.stderr


def test_an_unknown_architecture_is_refused_by_name(tmp_path):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        config["architectures"] = ["SomethingNewForCausalLM"]
        (folder / "config.json").write_text(json.dumps(config))
    r = broken_model(tmp_path, change)
    assert r.returncode != 0 and "SomethingNewForCausalLM" in r.stderr


def test_a_port_in_use_is_said(server):
    r = run("serve", "--model", MODEL, "--port", str(server.port), *DEVICE_FLAGS)
    assert r.returncode != 0 and str(server.port) in r.stderr


def test_sigterm_lets_running_streams_finish(start):
    s = start()
    result = {}

    def ask():
        result["r"] = httpx.post(s.url + "/v1/chat/completions", timeout=60, json={"model": "trireme-demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 500, "ignore_eos": True})
    t = threading.Thread(target=ask)
    t.start()
    while s.metric("trireme:num_requests_running") == 0:
        time.sleep(0.01)
    s.process.send_signal(signal.SIGTERM)
    t.join()
    assert result["r"].status_code == 200 and result["r"].json()["usage"]["completion_tokens"] == 500
    assert s.process.wait(30) == 0


def test_kill_9_in_the_middle_leaves_a_machine_that_can_start_again(start):
    s = start()
    with httpx.stream("POST", s.url + "/v1/chat/completions", json={"model": "trireme-demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 500, "ignore_eos": True, "stream": True}) as r:
        lines = r.iter_lines()
        next(lines)
        s.process.kill()
        with pytest.raises(httpx.HTTPError):
            for _ in lines:
                pass
    again = start("--port", str(s.port))
    assert httpx.get(again.url + "/health").status_code == 200


def test_health_ready_metrics_and_version(server):
    assert httpx.get(server.url + "/health").status_code == 200
    assert httpx.get(server.url + "/ready", timeout=20).status_code == 200
    text = httpx.get(server.url + "/metrics").text
    for name in ("vllm:num_requests_running", "vllm:kv_cache_usage_perc", "sglang:num_running_reqs", "trireme:time_to_first_token_seconds_bucket"):
        assert name in text


def test_curl_as_in_the_readme(server):
    r = subprocess.run(["curl", "-sN", server.url + "/v1/chat/completions", "-H", "Content-Type: application/json", "-d",
                        '{"model": "trireme-demo", "messages": [{"role": "user", "content": "What is git?"}], "stream": true}'], capture_output=True, text=True, timeout=60)
    assert r.stdout.startswith("data: {") and r.stdout.rstrip().endswith("data: [DONE]")


def test_score_and_eval(tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "a", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4, "top_logits": 3}) + "\n" +
                                       json.dumps({"id": 2, "text": "The package", "max_tokens": 2}) + "\n" + json.dumps({"token_ids": [0, 3, 46]}) + "\n")
    out = tmp_path / "out.jsonl"
    r = run("score", "--model", MODEL, "--input", str(tmp_path / "in.jsonl"), "--output", str(out), *DEVICE_FLAGS)
    assert r.returncode == 0, r.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0]["prompt_token_ids"] == [0, 3, 46, 443, 325, 7, 4] and rows[0]["continuation_ids"][:3] == [46, 443, 325]
    assert len(rows[0]["top_logits"]) == 3 and len(rows[0]["step_top2"]) == 4
    assert rows[1]["id"] == 2 and rows[1]["prompt_token_ids"][0] == 0 and len(rows[2]["continuation_ids"]) == 48
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "The package installs files."}) + "\n")
    r = run("eval", "--model", MODEL, "--text", str(tmp_path / "text.jsonl"), "--json", str(tmp_path / "r.json"), *DEVICE_FLAGS)
    assert r.returncode == 0 and json.loads((tmp_path / "r.json").read_text())["perplexity"] > 1


def test_chat_over_a_pipe_and_over_a_url(server):
    local = run("chat", "--model", MODEL, *DEVICE_FLAGS, "--temperature", "0", "--prompt", "What is git?")
    assert local.returncode == 0 and local.stdout.strip(), local.stderr
    remote = run("chat", "--url", server.url, "--temperature", "0", "--prompt", "What is git?")
    assert remote.returncode == 0 and remote.stdout.strip() == local.stdout.strip()


def test_bench_serve_counts_every_request(server, tmp_path):
    r = run("bench", "serve", "--url", server.url, "--num-prompts", "20", "--concurrency", "5", "--input-len", "20", "--output-len", "8", "--json", str(tmp_path / "b.json"))
    assert r.returncode == 0, r.stderr
    assert "TTFT" in r.stdout and "20" in r.stdout
