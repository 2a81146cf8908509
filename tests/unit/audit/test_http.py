"""A completions endpoint: a real server in a thread, with a tiny model behind it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from foretoken.errors import ConfigError
from tests import letters, tiny
from tests.unit.audit.helper import audit, setup

PROMPT = [10, 20, 30, 10]
TOP = 6  # tokens that the model knows: few texts, so that few samples say much


class Handler(BaseHTTPRequestHandler):
    """What a server knows of OpenAI's completions API."""

    many, wrong, asked = True, False, list[Any]()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append((self.path, self.headers.get("Authorization"), body))
        if body["model"] != "tiny":
            return self._send(404, {"error": "no such model"})
        if body.get("n", 1) > 1 and not self.many:
            return self._send(400, {"error": "n must be 1"})
        texts = [self._write(body, body.get("seed", 0) * 1000 + i) for i in range(body.get("n", 1))]
        return self._send(200, {"choices": [{"text": text} for text in texts]})

    def _write(self, body: dict[str, Any], seed: int) -> str:
        tokenizer = letters.tokenizer()
        ids = tokenizer.encode(body["prompt"])
        n, generator = len(ids), torch.Generator().manual_seed(seed)
        for _ in range(body["max_tokens"]):
            row = rows(tuple(ids))
            if body["temperature"] == 0:
                ids.append(int(row.argmax()))
            else:
                p = (row / body["temperature"]).softmax(-1)
                if self.wrong and len(ids) > n:  # forgets what it has written
                    p = rows(tuple(ids[:n])).softmax(-1)
                p = torch.where(p >= p.topk(body.get("top_k", 97)).values[-1], p, 0.0)
                ids.append(int(torch.multinomial(p, 1, generator=generator)))
        return str(tokenizer.decode(ids[n:]))

    def _send(self, code: int, content: Any) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        """Quiet."""


KNOWN: dict[tuple[int, ...], torch.Tensor] = {}


def rows(ids: tuple[int, ...]) -> torch.Tensor:
    if ids not in KNOWN:
        KNOWN[ids] = tiny.plain_logits("llama", ids)[-1].double()
    return KNOWN[ids]


@pytest.fixture
def url() -> Iterator[str]:
    Handler.many, Handler.wrong = True, False
    Handler.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def given(**values: Any) -> Any:
    from foretoken.types import Sampling

    sampling = Sampling(temperature=1.0, top_k=TOP)
    return setup("llama", sampling, **{"api_model": "tiny", **values})


@pytest.mark.parametrize("many", [True, False])
def test_a_right_endpoint_passes(url: str, many: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    Handler.many = many
    monkeypatch.setenv("AUDIT_KEY", "secret")
    engine = f"http:{url}" if many else f"{url}/completions"
    report = audit(given(api_key_env="AUDIT_KEY"), [engine], [PROMPT], samples=600, tokens=2)
    [result] = report.engines
    assert not result.failed, result
    assert result.greedy is not None
    assert result.greedy.same == 1
    assert result.sampling is not None
    assert [t.freedom > 3 for t in result.sampling.tests] == [True, True]
    paths, keys, bodies = zip(*Handler.asked, strict=True)
    assert set(paths) == {"/v1/completions"}
    assert set(keys) == {"Bearer secret"}
    assert max(body.get("n", 1) for body in bodies[-5:]) == (32 if many else 1) or many
    assert "secret" not in report.model_dump_json()


def test_a_wrong_endpoint_is_found(url: str) -> None:
    Handler.wrong = True
    [result] = audit(given(), [f"http:{url}"], [PROMPT], samples=600, tokens=2).engines
    assert result.failed
    assert result.greedy is not None
    assert not result.greedy.faults
    assert result.sampling is not None
    first = next(t for t in result.sampling.tests if t.what == "first character")
    assert first.passed, "only what follows the first token is wrong"


def test_what_goes_wrong_is_one_line(url: str) -> None:
    with pytest.raises(ConfigError, match="api-model"):
        audit(given(api_model=None), [f"http:{url}"], [PROMPT])
    [result] = audit(given(api_model="big"), [f"http:{url}"], [PROMPT]).engines
    assert re.search(r"HTTP 404.*no such model", result.error)
    with pytest.raises(ConfigError, match="AUDIT_NONE"):
        audit(given(api_key_env="AUDIT_NONE"), [f"http:{url}"], [PROMPT])
    [result] = audit(given(), ["http:http://127.0.0.1:9"], [PROMPT]).engines
    assert "http:http://127.0.0.1:9" in result.error
    assert "\n" not in result.error
    with pytest.raises(ConfigError, match="sent as text"):
        audit(given(), [f"http:{url}"], [[*PROMPT, letters.EOS, 3]])
