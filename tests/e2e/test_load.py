"""Many streams at once, and clients that go away."""
import asyncio
import json
import random
import time

import httpx

PROMPTS = ["What is git?", "What is the Debian package wireshark?", "Who are you?", "What is the package vim for?"]


def body(prompt, n, stream=True):
    return {"model": "trireme-demo", "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": n, "ignore_eos": True, "stream": stream,
            "stream_options": {"include_usage": True}}


async def stream(port, prompt, n, leave_after=None):
    """One request over a plain socket. Returns (text, completion tokens, done seen), or None when it left on purpose."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    payload = json.dumps(body(prompt, n)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\nConnection: close\r\n\r\n".encode()
    text, tokens, done, events = "", None, False, 0
    try:
        if leave_after is not None and leave_after < 0:  # in the middle of the request itself
            writer.write((head + payload)[:random.randrange(len(head + payload))])
            await writer.drain()
            return None
        writer.write(head + payload)
        await writer.drain()
        if leave_after == 0:
            await asyncio.sleep(random.random() * 0.05)
            return None
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                done = True
                break
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            if chunk.get("usage"):
                tokens = chunk["usage"]["completion_tokens"]
            for c in chunk["choices"]:
                text += c["delta"].get("content") or ""
            events += 1
            if leave_after and events >= leave_after:
                return None
        return text, tokens, done
    finally:
        writer.close()


def test_500_streams_lose_nothing(server):
    n = 24
    alone = {p: asyncio.run(stream(server.port, p, n))[0] for p in PROMPTS}

    async def all_of_them():
        return await asyncio.gather(*(stream(server.port, PROMPTS[i % len(PROMPTS)], n) for i in range(500)))
    begin = time.monotonic()
    results = asyncio.run(all_of_them())
    print(f"500 streams of {n} tokens in {time.monotonic() - begin:.1f} s")
    for i, (text, tokens, done) in enumerate(results):
        assert done and tokens == n, i
        assert text == alone[PROMPTS[i % len(PROMPTS)]], i


def settle(server, limit=20):
    begin = time.monotonic()
    while time.monotonic() - begin < limit:
        m = server.metrics()
        busy = {k: v for k, v in m.items() if k.startswith(("trireme:num_requests_running", "trireme:num_requests_waiting")) and v}
        if not busy:
            return
        time.sleep(0.05)
    raise AssertionError(f"still busy: {busy}")


def test_200_disconnects_leave_nothing_behind(server):
    random.seed(1)
    settle(server)
    descriptors, threads = server.descriptors(), server.threads()

    async def leave_all():
        tasks = []
        for i in range(200):
            prompt = PROMPTS[i % len(PROMPTS)] + " word" * random.choice([0, 50, 600])
            tasks.append(asyncio.create_task(stream(server.port, prompt, 200, leave_after=random.choice([-1, 0, 1, 2, 10]))))
            await asyncio.sleep(random.random() * 0.01)
        await asyncio.gather(*tasks)
    asyncio.run(leave_all())
    settle(server)
    time.sleep(0.3)
    assert server.metric("trireme:kv_cache_usage_perc") == 0
    assert server.descriptors() <= descriptors + 1
    assert server.threads() == threads
    assert httpx.post(server.url + "/v1/chat/completions", json=body("What is git?", 5, stream=False) | {"stream_options": None}, timeout=30).status_code == 200


def test_a_full_queue_says_when_to_come_back(start):
    s = start("--max-num-seqs", "1", "--max-queued-requests", "1")

    async def many():
        async with httpx.AsyncClient(timeout=60) as c:
            return await asyncio.gather(*(c.post(s.url + "/v1/chat/completions", json={"model": "trireme-demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 300, "ignore_eos": True})
                                          for _ in range(8)))
    answers = asyncio.run(many())
    refused = [a for a in answers if a.status_code == 429]
    assert refused and all(int(a.headers["retry-after"]) >= 1 for a in refused)
    assert [a for a in answers if a.status_code == 200]
