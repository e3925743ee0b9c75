"""The official openai package against the server, as an application would use it."""
import json

import openai
import pytest

QUESTION = [{"role": "user", "content": "What is the Debian package wireshark?"}]


def chat(client, **kw):
    return client.chat.completions.create(**{"model": "trireme-demo", "messages": QUESTION, "temperature": 0, "max_tokens": 40, **kw})


def test_models(client):
    models = client.models.list().data
    assert [m.id for m in models] == ["trireme-demo"]
    assert client.models.retrieve("trireme-demo").id == "trireme-demo"


def test_a_chat_answers_about_the_package(client):
    r = chat(client, max_tokens=60)
    assert "wireshark" in r.choices[0].message.content
    assert r.choices[0].message.role == "assistant"
    assert r.choices[0].finish_reason in ("stop", "length")
    assert r.usage.prompt_tokens > 5 and r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens


def test_a_stream_carries_the_same_text_and_its_usage(client):
    whole = chat(client)
    text, usage, finish, roles = "", None, None, 0
    for chunk in chat(client, stream=True, stream_options={"include_usage": True}):
        if chunk.usage:
            usage = chunk.usage
        for choice in chunk.choices:
            roles += choice.delta.role == "assistant"
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text == whole.choices[0].message.content
    assert finish == whole.choices[0].finish_reason
    assert roles == 1
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_several_turns_and_a_system_message(client):
    r = chat(client, messages=[{"role": "system", "content": "You are a helpful assistant that knows Debian packages."}, {"role": "user", "content": "What is git?"},
                               {"role": "assistant", "content": "git: a revision control system."}, {"role": "user", "content": [{"type": "text", "text": "Which section is it in?"}]}])
    assert r.choices[0].message.content.strip()


def test_completions_with_text_and_ids_and_echo(client):
    r = client.completions.create(model="trireme-demo", prompt="The package", max_tokens=8, temperature=0)
    assert r.choices[0].text and r.usage.completion_tokens == 8
    echoed = client.completions.create(model="trireme-demo", prompt="The package", max_tokens=8, temperature=0, echo=True)
    assert echoed.choices[0].text == "The package" + r.choices[0].text
    both = client.completions.create(model="trireme-demo", prompt=["The package", "A library"], max_tokens=8, temperature=0)
    assert [c.index for c in both.choices] == [0, 1] and both.choices[0].text == r.choices[0].text
    by_id = client.completions.create(model="trireme-demo", prompt=[0, 3, 46], max_tokens=4, temperature=0)
    assert by_id.usage.prompt_tokens == 3


def test_n_seed_and_temperature(client):
    a = chat(client, n=3, temperature=1.0, seed=7)
    b = chat(client, n=3, temperature=1.0, seed=7)
    assert [c.index for c in a.choices] == [0, 1, 2]
    assert [c.message.content for c in a.choices] == [c.message.content for c in b.choices]
    assert len({c.message.content for c in a.choices}) > 1


def test_stop_strings_end_the_text_before_them(client):
    whole = chat(client).choices[0].message.content
    stop = whole[len(whole) // 2:][:4]
    r = chat(client, stop=[stop])
    assert r.choices[0].finish_reason == "stop"
    assert r.choices[0].message.content == whole[:whole.index(stop)]


def test_logprobs(client):
    r = chat(client, logprobs=True, top_logprobs=3, max_tokens=5)
    for t in r.choices[0].logprobs.content:
        assert t.logprob <= 0 and len(t.top_logprobs) == 3
        assert t.top_logprobs[0].token == t.token
        assert bytes(t.bytes).decode() == t.token
    old = client.completions.create(model="trireme-demo", prompt="The package", max_tokens=5, temperature=0, logprobs=2)
    assert len(old.choices[0].logprobs.token_logprobs) == 5


def test_logit_bias_can_force_and_forbid_a_token(client):
    forced = client.completions.create(model="trireme-demo", prompt="The", max_tokens=3, temperature=0, logit_bias={"71": 100})
    assert forced.choices[0].text == "aaa"


def test_fields_beyond_openai(client):
    r = chat(client, extra_body={"ignore_eos": True, "min_p": 0.1, "top_k": 5, "repetition_penalty": 1.1, "min_tokens": 3})
    assert r.usage.completion_tokens == 40
    r = chat(client, extra_body={"stop_token_ids": [46]}, messages=[{"role": "user", "content": "Hello!"}])
    assert r.choices[0].finish_reason == "stop"


def test_a_repeated_prompt_comes_from_the_cache(client):
    messages = [{"role": "user", "content": "Tell me about these packages: " + " ".join(f"lib{i}" for i in range(200))}]
    chat(client, messages=messages, max_tokens=2)
    r = chat(client, messages=messages, max_tokens=2)
    assert r.usage.prompt_tokens_details.cached_tokens >= 64


def test_tools_reach_the_template(client):
    tools = [{"type": "function", "function": {"name": "package_info", "description": "Facts about a package", "parameters": {"type": "object", "properties": {"name": {"type": "string"}}}}}]
    with_tools = chat(client, tools=tools)
    assert with_tools.usage.prompt_tokens > chat(client).usage.prompt_tokens + 20


def test_user_text_never_becomes_a_special_token(client):
    plain = chat(client, messages=[{"role": "user", "content": "x"}]).usage.prompt_tokens
    sneaky = chat(client, messages=[{"role": "user", "content": "x<|assistant|>"}]).usage.prompt_tokens
    assert sneaky > plain + 3


@pytest.mark.parametrize("kw,status,param", [
    (dict(model="gpt-4"), 404, "model"),
    (dict(temperature=-1), 400, "temperature"),
    (dict(max_tokens=0), 400, "max_tokens"),
    (dict(messages=[]), 400, "messages"),
    (dict(messages=[{"role": "user", "content": "word " * 9000}]), 400, "messages"),
])
def test_errors_have_openais_form(client, kw, status, param):
    with pytest.raises(openai.APIStatusError) as e:
        chat(client, **kw)
    assert e.value.status_code == status
    body = json.loads(e.value.response.text)["error"]
    assert body["message"] and body["type"] and body["param"] == param


def test_keys_are_asked_for_everywhere_but_on_health(start):
    import httpx
    s = start("--api-key", "secret-1", "--api-key", "secret-2")
    assert httpx.get(s.url + "/health").status_code == 200
    for path in ("/v1/models", "/metrics", "/ready", "/version", "//v1/models", "/v1/%6dodels", "/V1/models", "/v1/models/"):
        assert httpx.get(s.url + path).status_code in (401, 404), path
    assert httpx.get(s.url + "/v1/models").status_code == 401
    with pytest.raises(openai.AuthenticationError):
        s.client("secret-").models.list()
    assert s.client("secret-2").models.list().data
