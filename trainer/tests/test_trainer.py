"""The trainer as its clients see it, judged by programs that know nothing of it. One module: torch is loaded once a server."""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from conftest import KEY, ROOT, SHARED, free_port, moods, finished, upload, wait_until

FAST = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 2}


def create(sdk: openai.OpenAI, file_id: str, validation: str | None = None, metadata: dict | None = None, **more):
    method = {"type": "supervised", "supervised": {"hyperparameters": more.pop("hyperparameters", FAST)}}
    return sdk.fine_tuning.jobs.create(
        model="minilm", training_file=file_id, validation_file=validation, seed=7, method=method,
        metadata={"pgft_max_seq_length": "16", **(metadata or {})}, **more,
    )  # fmt: skip


def margin(sdk: openai.OpenAI, model: str) -> float:
    """How much nearer a thing is to another of its mood than to itself in another mood."""
    texts = ["The old cat on the sofa.", "The old song of the north.", "The loud cat on the sofa."]
    data = sdk.embeddings.create(model=model, input=texts, encoding_format="float").data
    cat, song, loud = (np.array(item.embedding) for item in data)
    return float(cat @ song - cat @ loud)


def test_the_official_sdk_end_to_end(trainer):
    sdk = trainer.sdk()
    training, validation = upload(sdk, moods(48)), upload(sdk, moods(24, seed=2), "valid.jsonl")
    assert sdk.files.wait_for_processing(training).status == "processed"
    assert sdk.files.content(training).read() == moods(48)
    assert {file.id for file in sdk.files.list(purpose="fine-tune")} >= {training, validation}

    job = create(sdk, training, validation, {"pgft_run": "run-1"}, suffix="cats")
    assert job.status == "validating_files" and job.seed == 7
    assert [found.id for found in sdk.fine_tuning.jobs.list(metadata={"pgft_run": "run-1"})] == [job.id]
    job = finished(sdk, job.id)
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model.startswith("ft:minilm:local:cats:") and job.trained_tokens > 48 * 3 * 2

    events = list(sdk.fine_tuning.jobs.list_events(job.id))
    assert "successfully completed" in events[0].message
    assert any(event.type == "metrics" and "train_loss" in event.data for event in events)
    steps = {ckpt.step_number for ckpt in sdk.fine_tuning.jobs.checkpoints.list(job.id)}
    assert steps == {0, 6, 12}, "before training and after each epoch"
    table = sdk.files.content(job.result_files[0]).read().decode().splitlines()
    assert table[0] == "step,train_loss,valid_loss,user_auc,ndcg_at_10,mrr_at_10" and len(table) > 3

    assert sdk.models.retrieve(job.fine_tuned_model).owned_by == "org-local"
    assert margin(sdk, job.fine_tuned_model) > margin(sdk, "minilm") + 0.1
    sdk.models.delete(job.fine_tuned_model)
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve(job.fine_tuned_model)


def test_embeddings_have_both_encodings_and_fewer_dimensions(trainer):
    sdk, http = trainer.sdk(), trainer.http()
    floats = np.array(sdk.embeddings.create(model="minilm", input="a text", encoding_format="float").data[0].embedding)
    coded = http.post("/embeddings", json={"model": "minilm", "input": ["a text"], "encoding_format": "base64"}).json()
    assert np.allclose(np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4"), floats, atol=1e-6)
    assert floats.shape == (384,) and abs(np.linalg.norm(floats) - 1) < 1e-5
    short = np.array(sdk.embeddings.create(model="minilm", input="a text", dimensions=64, encoding_format="float").data[0].embedding)
    assert short.shape == (64,) and np.allclose(short, floats[:64] / np.linalg.norm(floats[:64]), atol=1e-5)
    assert coded["usage"]["prompt_tokens"] == 4  # [CLS] a text [SEP]


@pytest.mark.parametrize(
    ("metadata", "rows"),
    [
        ({"pgft_lora_r": "4"}, moods(16)),
        ({"pgft_matryoshka": "384,64"}, moods(16)),
        ({"pgft_loss": "cached_mnrl"}, moods(16)),
        ({"pgft_loss": "triplet"}, moods(16)),
        ({}, b"".join(json.dumps({"sentence1": f"cat {i}", "sentence2": f"cats {i}", "score": i / 16}).encode() + b"\n" for i in range(16))),
        ({}, b"".join(json.dumps({"anchor": f"cat {i}", "positive": f"cats {i}"}).encode() + b"\n" for i in range(16))),
    ],
    ids=["lora", "matryoshka", "cached_mnrl", "triplet", "cosent", "mnrl"],
)
def test_every_loss_and_lora_train(trainer, metadata, rows):
    sdk = trainer.sdk()
    job = finished(sdk, create(sdk, upload(sdk, rows), metadata=metadata, hyperparameters={"n_epochs": 1, "batch_size": 8}).id)
    assert job.status == "succeeded", job.error
    tuned = sdk.embeddings.create(model=job.fine_tuned_model, input="a cat", encoding_format="float").data[0].embedding
    base = sdk.embeddings.create(model="minilm", input="a cat", encoding_format="float").data[0].embedding
    assert not np.array_equal(tuned, base), "the model has learned something"


def test_a_reranker_is_trained_and_asked(trainer):
    sdk, http = trainer.sdk(), trainer.http()
    rows = [json.dumps({"query": f"cat number {i}", "relevant_passages": [f"All about cat {i}."], "hard_negatives": [f"A ship with {i} masts.", "Rain."]}) for i in range(24)]
    job = finished(sdk, create(sdk, upload(sdk, "\n".join(rows).encode()), metadata={"pgft_task": "rerank"}).id)
    assert job.status == "succeeded", job.error
    answer = http.post("/rerank", json={"model": job.fine_tuned_model, "query": "cat number 3", "documents": ["Rain.", "All about cat 3.", "A ship."], "top_n": 2})
    results = answer.json()["results"]
    assert [len(results), results[0]["index"]] == [2, 1] and results[0]["relevance_score"] >= results[1]["relevance_score"]
    assert http.post("/embeddings", json={"model": job.fine_tuned_model, "input": "x"}).json()["error"]["code"] == "wrong_task"


def test_bad_rows_are_named_by_line(trainer):
    sdk = trainer.sdk()
    good = b'{"anchor": "a", "positive": "b"}\n'
    for content, problem in [
        (good + b"{\n", "line 2: not JSON"),
        (good + b'{"anchor": "a", "positive": " "}\n', 'line 2: "positive" must be text'),
        (b'{"prompt": "a"}\n', "line 1: keys are prompt"),
        (b"\n", "line 1: not JSON"),
        (b'{"sentence1": "a", "sentence2": "b", "score": 2}', 'line 1: "score" must be a number from 0 to 1'),
    ]:
        job = finished(sdk, create(sdk, upload(sdk, content)).id)
        assert job.status == "failed" and problem in job.error.message, job.error
        assert job.error.code == "invalid_training_file" and job.error.param == "training_file"


def test_requests_that_cannot_work_are_refused_at_once(trainer):
    sdk, http = trainer.sdk(), trainer.http()
    file_id = upload(sdk, moods(4))
    for body, status, code in [
        ({"model": "elsewhere", "training_file": file_id}, 404, "model_not_found"),
        ({"model": "minilm", "training_file": "file-none"}, 404, "resource_not_found"),
        ({"model": "minilm", "training_file": file_id, "method": {"type": "dpo"}}, 400, "unsupported_method"),
        ({"model": "minilm", "training_file": file_id, "hyperparameters": {"n_epochs": 99}}, 400, "invalid_value"),
        ({"model": "minilm", "training_file": file_id, "suffix": "../up"}, 400, "invalid_value"),
        ({"model": "minilm", "training_file": file_id, "metadata": {"pgft_los": "mnrl"}}, 400, "invalid_value"),
        ({"model": "minilm", "training_file": file_id, "metadata": {"pgft_warmup": "2"}}, 400, "invalid_value"),
        ({"model": "minilm", "training_file": file_id, "metadata": {str(i): "x" for i in range(17)}}, 400, "invalid_value"),
        ({"model": "../../etc", "training_file": file_id}, 404, "model_not_found"),
    ]:
        answer = http.post("/fine_tuning/jobs", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    with pytest.raises(openai.AuthenticationError):
        trainer.sdk().with_options(api_key="wrong").models.list()
    assert http.post("/fine_tuning/jobs/ftjob-none/cancel").status_code == 404
    assert http.post("/embeddings", json={"model": "minilm", "input": ["x"] * 2049}).status_code == 400


def test_bodies_have_a_limit(trainer):
    http = trainer.http()
    assert http.post("/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", b"x" * (3 << 20))}).status_code == 413
    assert http.post("/embeddings", content=(b" " * 65536 for _ in range(200))).status_code == 413  # without a Content-Length
    assert http.post("/files", data={"purpose": "fine-tune"}, files={"file": ("a.txt", b"x")}).json()["error"]["code"] == "invalid_file_format"


def test_a_key_creates_one_job_however_often_it_comes(trainer):
    sdk = trainer.sdk()
    file_id = upload(sdk, b"not a row")
    again = lambda _: create(sdk, file_id, extra_headers={"Idempotency-Key": "once"}).id  # noqa: E731
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(again, range(16)))) == 1
    with pytest.raises(openai.ConflictError):
        create(sdk, file_id, suffix="other", extra_headers={"Idempotency-Key": "once"})


def test_a_cancelled_job_leaves_no_process(private_trainer):
    server = private_trainer()
    sdk = server.sdk()
    job = create(sdk, upload(sdk, moods(64)), hyperparameters={"n_epochs": 50, "batch_size": 4})
    wait_until(lambda: sdk.fine_tuning.jobs.retrieve(job.id).status == "running", 120)
    assert sdk.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    wait_until(lambda: not training_processes(job.id), 30)
    with pytest.raises(openai.BadRequestError):
        sdk.fine_tuning.jobs.cancel(job.id)
    assert sdk.fine_tuning.jobs.retrieve(job.id).status == "cancelled"


def training_processes(job_id: str) -> list[int]:
    found = subprocess.run(["pgrep", "-f", f"[t]rain --data .*--job {job_id}"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def test_killed_at_any_moment_it_ends_in_the_same_model(private_trainer):
    """kill -9 of the training, then of the whole server: the job goes on from its checkpoint, to the same weights as undisturbed."""
    server = private_trainer()
    sdk = server.sdk()
    file_id, valid_id = upload(sdk, moods(48)), upload(sdk, moods(12, seed=3))
    plan = {"n_epochs": 4, "batch_size": 8, "learning_rate_multiplier": 2}
    undisturbed = finished(sdk, create(sdk, file_id, valid_id, hyperparameters=plan).id)
    assert undisturbed.status == "succeeded", undisturbed.error

    job = create(sdk, file_id, valid_id, hyperparameters=plan)
    wait_until(lambda: len(list(sdk.fine_tuning.jobs.checkpoints.list(job.id))) >= 2, 120)
    for pid in training_processes(job.id):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: training_processes(job.id), 60)
    server.kill()
    wait_until(lambda: not training_processes(job.id), 30)
    server.start()
    job = finished(sdk, job.id)
    assert job.status == "succeeded", job.error

    texts = ["The tired cat lies on the chair.", "A ship in the harbour."]
    vectors = [np.array([item.embedding for item in sdk.embeddings.create(model=model, input=texts, encoding_format="float").data])
               for model in (undisturbed.fine_tuned_model, job.fine_tuned_model)]  # fmt: skip
    assert np.allclose(*vectors, atol=1e-5), np.abs(vectors[0] - vectors[1]).max()


def test_two_processes_train_one_model(private_trainer):
    server = private_trainer("--launch", "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no")
    sdk = server.sdk()
    job = finished(sdk, create(sdk, upload(sdk, moods(48)), upload(sdk, moods(12, seed=3))).id)
    log = (server.data / "jobs" / job.id / "log").read_text()
    assert job.status == "succeeded", (job.error, log[-2000:])
    steps = [ckpt.step_number for ckpt in sdk.fine_tuning.jobs.checkpoints.list(job.id)]
    assert max(steps) == 6, "48 rows, 2 epochs, 8 rows a step and process, 2 processes"
    assert margin(sdk, job.fine_tuned_model) > margin(sdk, "minilm")


def test_a_second_machine_runs_what_the_log_shows(private_trainer):
    machines = f"--multi_gpu --num_machines 2 --num_processes 2 --machine_rank 0 --main_process_ip 127.0.0.1 --main_process_port {free_port()}"
    server = private_trainer("--launch", f"{machines} --mixed_precision no --dynamo_backend no")
    sdk = server.sdk()
    job = create(sdk, upload(sdk, moods(48)), upload(sdk, moods(12, seed=3)))
    log = server.data / "jobs" / job.id / "log"
    wait_until(lambda: log.exists() and b"\n" in log.read_bytes(), 60)
    command = shlex.split(log.read_text().splitlines()[0].removeprefix("$ "))
    command[command.index("--machine_rank") + 1] = "1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    other = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    job = finished(sdk, job.id)
    assert (job.status, other.returncode) == ("succeeded", 0), (job.error, log.read_text()[-2000:], other.stderr[-2000:])
    assert max(ckpt.step_number for ckpt in sdk.fine_tuning.jobs.checkpoints.list(job.id)) == 6, "half of the rows a machine"


def test_no_signal_keeps_the_base(trainer):
    sdk = trainer.sdk()
    backwards = [json.loads(line) for line in moods(32).splitlines()]
    backwards = "\n".join(json.dumps({**row, "positive": row["negative"], "negative": row["positive"]}) for row in backwards).encode()
    job = finished(sdk, create(sdk, upload(sdk, backwards), upload(sdk, moods(12, seed=3))).id)
    assert job.status == "succeeded", job.error
    assert any("Kept the base" in event.message for event in sdk.fine_tuning.jobs.list_events(job.id))
    assert abs(margin(sdk, job.fine_tuned_model) - margin(sdk, "minilm")) < 1e-5


def test_prism_finds_nothing_wrong_in_either_direction(trainer, prism):
    proxy = prism(trainer.url + "/v1")
    sdk = trainer.sdk(proxy)
    file_id = upload(sdk, moods(16))
    job = create(sdk, file_id, hyperparameters={"n_epochs": 1, "batch_size": 8})
    job = finished(sdk, job.id)
    assert job.status == "succeeded", job.error
    sdk.files.retrieve(file_id)
    list(sdk.files.list())
    sdk.fine_tuning.jobs.list(limit=2, metadata={"pgft_run": "none"})
    list(sdk.fine_tuning.jobs.list_events(job.id, limit=2))
    list(sdk.fine_tuning.jobs.checkpoints.list(job.id))
    sdk.models.list()
    sdk.models.retrieve("minilm")
    sdk.embeddings.create(model=job.fine_tuned_model, input=["a", "b"], encoding_format="float")
    sdk.models.delete(job.fine_tuned_model)
    sdk.files.delete(file_id)


def test_schemathesis_finds_no_server_error(trainer, tmp_path):
    description = SHARED / "openai-trainer-surface-openapi.yaml"
    if not description.exists():
        pytest.skip("the protocol's description is not here")
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(description), "--url", trainer.url + "/v1", "-H", f"Authorization: Bearer {KEY}",
               "-c", "not_a_server_error,response_schema_conformance,content_type_conformance", "-n", "8", "-w", "1",
               "--phases", "examples,fuzzing", "--seed", "1"]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


def test_the_key_is_in_no_file(trainer):
    trainer.sdk().models.list()
    files = [path for path in trainer.data.rglob("*") if path.is_file()]
    assert files and not [path for path in files if KEY.encode() in path.read_bytes()]
