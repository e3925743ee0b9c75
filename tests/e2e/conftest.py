"""Starts the program as a user would and hands its address to the tests.

TRIREME_TEST_PROGRAM names the program (else build/trireme); TRIREME_TEST_DEVICE=cuda runs every model on a GPU:
  TRIREME_TEST_DEVICE=cuda TRIREME_TEST_PROGRAM=build-cuda/trireme pytest tests/e2e
"""
import os
import pathlib
import re
import signal
import subprocess
import time

import httpx
import openai
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRIREME = os.environ.get("TRIREME_TEST_PROGRAM") or os.environ.get("TRIREME", str(ROOT / "build/trireme"))
DEVICE = os.environ.get("TRIREME_TEST_DEVICE", "cpu")
# The tests compare answers with answers: on a GPU, bits depend on the batch unless one asks that they do not.
DEVICE_FLAGS = ["--device", DEVICE] + (["--deterministic"] if DEVICE == "cuda" else [])
MODEL = str(ROOT / "models/trireme-demo")
# Several servers share the GPU.
SERVE_FLAGS = ["--gpu-memory-utilization", "0.1"] if DEVICE == "cuda" else []


class Server:
    """One `trireme serve` on a port of its own choosing."""

    def __init__(self, tmp, *flags, env=None, model=MODEL):
        self.log_path = tmp / f"serve-{time.monotonic_ns()}.log"
        self.log = open(self.log_path, "wb")
        started = time.monotonic()
        self.process = subprocess.Popen([TRIREME, "serve", "--model", model, "--port", "0", *DEVICE_FLAGS, *SERVE_FLAGS, *flags], stderr=self.log, stdout=self.log,
                                        env={**os.environ, **(env or {})})
        while True:
            found = re.search(rb"at http://127\.0\.0\.1:(\d+)", self.log_path.read_bytes())
            if found:
                break
            assert self.process.poll() is None, self.text()
            assert time.monotonic() - started < 60, "the server did not start: " + self.text()
            time.sleep(0.01)
        self.start_seconds = time.monotonic() - started
        self.port = int(found.group(1))
        self.url = f"http://127.0.0.1:{self.port}"

    def text(self):
        return self.log_path.read_text(errors="replace")

    def client(self, key="none"):
        return openai.OpenAI(base_url=self.url + "/v1", api_key=key, max_retries=0, timeout=120)

    def metrics(self):
        """Every sample of /metrics by name with its labels."""
        out = {}
        for line in httpx.get(self.url + "/metrics").text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                out[name] = float(value)
        return out

    def metric(self, name):
        return sum(v for k, v in self.metrics().items() if k.split("{")[0] == name)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise AssertionError("SIGTERM did not end the server: " + self.text()[-2000:])
        self.log.close()
        return self.process.returncode


def pytest_configure(config):
    config.addinivalue_line("markers", "cpu_only: what is tested does not exist, or means something else, on a GPU")


def pytest_collection_modifyitems(items):
    if DEVICE != "cpu":
        for item in items:
            if item.get_closest_marker("cpu_only"):
                item.add_marker(pytest.mark.skip(reason=f"not with --device {DEVICE}"))


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    s = Server(tmp_path_factory.mktemp("serve"))
    yield s
    assert s.stop() == 0, s.text()[-3000:]


@pytest.fixture
def start(tmp_path):
    """A function that starts more servers, each stopped at the end of the test."""
    running = []

    def go(*flags, **kw):
        running.append(Server(tmp_path, *flags, **kw))
        return running[-1]

    yield go
    for s in running:
        s.stop()


@pytest.fixture(scope="session")
def client(server):
    return server.client()
