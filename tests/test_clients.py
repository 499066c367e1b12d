"""Real clients: the OpenAI SDK, streaming and not, with its errors, timeouts and cancellation."""

import asyncio
import json
import pathlib
import re
import subprocess

import httpx
import openai
import pytest

from conftest import ROOT, route, until


@pytest.fixture(scope="module")
def fleet(start):
    keys = start.path / "keys"
    keys.write_text("sk-good\n")
    few = start.path / "few"
    few.write_text("sk-few\n")
    tenants = f'[[tenants]]\nname = "all"\nkeys_file = "{keys}"\n[[tenants]]\nname = "few"\nkeys_file = "{few}"\nmax_in_flight = 1\n'
    start.engines = [start.engine("a", "--lora", "poet"), start.engine("b", "--lora", "poet")]
    start.door = start.gateway(start.engines, extra=tenants)
    return start


def client(fleet, key="sk-good", **more):
    return openai.OpenAI(base_url=f"{fleet.door.url}/v1", api_key=key, max_retries=0, **more)


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say something about rivers."}]


def test_chats_completions_models_and_embeddings_work(fleet):
    api = client(fleet)
    answer = api.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=12)
    assert answer.choices[0].message.content and answer.usage.completion_tokens == 12
    text = api.completions.create(model="sim", prompt="once upon", max_tokens=5)
    assert len(text.choices[0].text) == 5
    assert {model.id for model in api.models.list()} >= {"sim", "poet"}
    assert api.models.retrieve("sim").id == "sim"
    assert len(api.embeddings.create(model="sim", input=["a", "b"], encoding_format="float").data) == 2
    assert api.responses.create(model="sim", input="hello", max_output_tokens=4).output_text


def test_a_stream_says_the_same_as_a_plain_answer_and_only_shows_usage_if_asked(fleet):
    api = client(fleet)
    plain = api.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=20).choices[0].message.content
    chunks = list(api.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=20, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == plain
    assert all(chunk.usage is None and chunk.choices for chunk in chunks), "usage is our wish, not the client's"
    chunks = list(api.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=20, stream=True,
                                              stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens == 20


def test_errors_become_the_exceptions_that_the_sdk_knows(fleet):
    api = client(fleet)
    with pytest.raises(openai.NotFoundError) as error:
        api.chat.completions.create(model="nobody", messages=MESSAGES)
    assert error.value.code == "model_not_found" and error.value.param == "model"
    with pytest.raises(openai.BadRequestError):
        api.chat.completions.create(model="sim", messages="not a list")
    with pytest.raises(openai.BadRequestError):
        api.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=-1)
    with pytest.raises(openai.AuthenticationError):
        client(fleet, "sk-wrong").models.list()
    assert httpx.get(f"{fleet.door.url}/v1/models").json()["error"]["code"] == "invalid_api_key"


def test_a_tenant_gets_no_more_at_a_time_than_it_may_have(fleet):
    api = client(fleet, "sk-few")
    stream = api.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=2000, stream=True)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError) as error:
        api.chat.completions.create(model="sim", messages=MESSAGES)
    assert int(error.value.response.headers["retry-after"]) >= 1
    stream.close()
    until(lambda: api.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=1), "the place to be free again")


def test_a_timeout_and_a_closed_stream_free_their_engines(fleet):
    api = client(fleet)
    with pytest.raises(openai.APITimeoutError):
        api.with_options(timeout=0.2).chat.completions.create(model="sim", messages=MESSAGES, max_tokens=5000)
    stream = api.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=5000, stream=True)
    next(iter(stream))
    assert sum(engine.running() for engine in fleet.engines) >= 1
    stream.close()
    until(lambda: sum(engine.running() for engine in fleet.engines) == 0, "the engines to be free")
    until(lambda: fleet.door.metric("warmline_fleet_in_flight_requests") == 0, "nothing to be in flight")


def test_many_streams_at_once_all_come_to_their_end(fleet):
    async def all_of_them():
        api = openai.AsyncOpenAI(base_url=f"{fleet.door.url}/v1", api_key="sk-good", max_retries=0)

        async def one(i):
            messages = [{"role": "user", "content": f"story number {i % 7}"}]
            stream = await api.chat.completions.create(model="sim", messages=messages, max_tokens=16, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        return await asyncio.gather(*[one(i) for i in range(100)])

    answers = asyncio.run(all_of_them())
    assert len(answers) == 100 and all(len(answer) == 16 for answer in answers)
    assert len(set(answers)) == 7, "the same prompt gets the same answer on any engine"


def test_anthropics_messages_pass_with_their_own_errors(fleet):
    body = {"model": "sim", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
    url, key = f"{fleet.door.url}/v1/messages", {"x-api-key": "sk-good"}
    assert httpx.post(url, json=body, headers=key).json()["content"][0]["text"]
    with httpx.stream("POST", url, json={**body, "stream": True}, headers=key) as stream:
        assert "event: message_stop" in stream.read().decode()
    wrong = httpx.post(url, json={**body, "model": "nobody"}, headers=key)
    assert (wrong.status_code, wrong.json()["type"], wrong.json()["error"]["type"]) == (404, "error", "not_found_error")


def test_adapters_and_salts_do_not_share_blocks(fleet):
    headers = {"authorization": "Bearer sk-good"}
    text = "a text that is long enough for some blocks, and then a little longer than that"

    def cached(**more):
        answer = fleet.door.chat(text, headers=headers, **more)
        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert int(route(answer)["cached"]) == usage, "what was predicted is what the engine found"
        return usage

    kinds = [{}, {"model": "poet"}, {"cache_salt": "x"}, {"cache_salt": "y"}]
    assert [cached(**kind) for kind in kinds] == [0, 0, 0, 0]
    until(lambda: all(engine["views"][0]["view"] == "exact" for engine in fleet.door.status()["engines"]), "exact views")
    assert all(cached(**kind) > 0 for kind in kinds)


def test_the_readmes_curl_lines_do_what_they_say(start, tmp_path):
    door = start.gateway([start.engine("readme")])
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("curl")]
    assert lines, "the README shows how to try it"
    for line in lines:
        line = line.replace("127.0.0.1:8080", f"127.0.0.1:{door.port}").replace("127.0.0.1:8081", f"127.0.0.1:{door.admin_port}")
        ran = subprocess.run(["bash", "-c", line.replace("curl ", "curl -sS --fail-with-body ", 1)], capture_output=True, text=True, timeout=30)
        assert ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"
