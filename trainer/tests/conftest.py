"""A trainer of its own for the tests, with a real model, on a free loopback port."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest

ROOT = Path(__file__).resolve().parents[1]
KEY = "test-key"
MODEL = os.environ.get("PGFT_TEST_MODEL", "")
SHARED = ROOT.parents[1] / "shared" / "data"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Trainer:
    """The server as a process: it can be killed and started again on the same data."""

    def __init__(self, data: Path, *options: str):
        self.data, self.options, self.port, self.process = data, options, free_port(), None
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> Trainer:
        command = [sys.executable, "-m", "pg_finetune_trainer", "serve", "--data", str(self.data), "--port", str(self.port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PG_FINETUNE_TRAINER_KEY": KEY, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen([*command, "--base", f"minilm={MODEL}", *self.options], env=environment, start_new_session=True)
        wait_until(lambda: answers(self.url + "/healthz"), 120)
        return self

    def kill(self) -> None:
        """As a power cut: no handler runs, and the training process dies with it."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)

    def sdk(self, base_url: str | None = None) -> openai.OpenAI:
        return openai.OpenAI(api_key=KEY, base_url=base_url or self.url + "/v1", max_retries=0)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url + "/v1", headers={"Authorization": f"Bearer {KEY}"}, timeout=60)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code < 500
    except httpx.HTTPError:
        return False


def wait_until(condition, seconds: float):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise TimeoutError


def finished(sdk: openai.OpenAI, job_id: str, seconds: float = 300):
    """The job when it has ended."""

    def ended():
        job = sdk.fine_tuning.jobs.retrieve(job_id)
        return job if job.status in ("succeeded", "failed", "cancelled") else None

    return wait_until(ended, seconds)


MOODS, THINGS = ("old", "grey", "small", "loud"), ("cat on the sofa", "ship in the harbour", "tree by the road", "song of the north")


def moods(rows: int, seed: int = 1) -> bytes:
    """Triplets of a taste that the base model does not have: the mood matters, not the thing."""
    random.seed(seed)
    lines = []
    for number in range(rows):
        mood, other = random.sample(MOODS, 2)
        thing, another = random.sample(THINGS, 2)
        row = {"anchor": f"The {mood} {thing}.", "positive": f"The {mood} {another}.", "negative": f"The {other} {thing}."}
        lines.append(json.dumps({**row, "user": f"user-{number % 6}"}))
    return "\n".join(lines).encode() + b"\n"


def upload(sdk: openai.OpenAI, content: bytes, name: str = "train.jsonl") -> str:
    return sdk.files.create(file=(name, content), purpose="fine-tune").id


@pytest.fixture(scope="session")
def trainer(tmp_path_factory):
    if not MODEL:
        pytest.exit("PGFT_TEST_MODEL must name a sentence-transformers folder (scripts/trainer.sh sets it)", returncode=2)
    server = Trainer(tmp_path_factory.mktemp("trainer"), "--max-file-mib", "2").start()
    yield server
    server.stop()


@pytest.fixture
def private_trainer(tmp_path):
    servers = []

    def start(*options: str) -> Trainer:
        servers.append(Trainer(tmp_path / str(len(servers)), *options).start())
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def prism():
    """Starts Prism proxies: a third party that holds requests and answers against the protocol's own description."""
    program = os.environ.get("PGFT_PRISM") or shutil.which("prism")
    description = SHARED / "openai-trainer-surface-openapi.yaml"
    if not program or not shutil.which(program) or not description.exists():
        pytest.skip("Prism or the protocol's description is not here")
    processes = []

    def start(upstream: str) -> str:
        port = free_port()
        command = [program, "proxy", str(description), upstream, "-h", "127.0.0.1", "-p", str(port), "--errors"]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT))
        wait_until(lambda: reachable(port), 60)
        return f"http://127.0.0.1:{port}"

    yield start
    for process in processes:
        process.terminate()
        process.wait(timeout=20)


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
