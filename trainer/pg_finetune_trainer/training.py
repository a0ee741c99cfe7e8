"""One job's training, in a process of its own (or several, under `accelerate launch`).

Starts again from its last whole checkpoint. With the same rows, seed, machine and number of processes the result is the same.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments, SentenceTransformer
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from transformers import TrainerCallback, set_seed

from . import losses, rows
from .config import LIFELINE, Settings
from .evaluation import UserRanking, by_cosine, by_cross_encoder
from .requests import Hyperparameters, Knobs
from .store import Store, new_id

LEARNING_RATE = 2e-5
EPOCHS, BATCH = 3, 32


class Job:
    """What the request asks for, with defaults filled in."""

    def __init__(self, settings: Settings, row):
        request = json.loads(row["request"])
        asked = Hyperparameters(**((request["method"] or {}).get("supervised", {}).get("hyperparameters") or request["hyperparameters"] or {}))
        self.id, self.seed, self.base_name = row["id"], row["seed"], request["model"]
        self.base, self.folder = settings.bases[request["model"]], settings.job_path(row["id"])
        self.training_file, self.validation_file = request["training_file"], request["validation_file"]
        self.epochs = EPOCHS if asked.n_epochs == "auto" else asked.n_epochs
        self.batch = BATCH if asked.batch_size == "auto" else asked.batch_size
        factor = 1.0 if asked.learning_rate_multiplier == "auto" else asked.learning_rate_multiplier
        self.learning_rate = LEARNING_RATE * factor
        self.knobs = Knobs.model_validate(request["metadata"] or {})
        # Of the job's own id: a job that is taken up again gives its model the same name.
        self.model_id = f"ft:{self.base_name}:local:{request['suffix'] or 'model'}:{row['id'][-8:]}"


class Reporter(TrainerCallback):
    """Writes progress where the API reads it; only the first process has one."""

    def __init__(self, store: Store | None, job: Job):
        self.store, self.job, self.losses = store, job, {}

    def note(self, message: str, level: str = "info", data: dict | None = None) -> None:
        with self.store.change():
            self.store.event(self.job.id, message, level, data)

    def on_step_end(self, args, state, control, **_):
        with self.store.change() as db:
            db.execute("UPDATE job SET step = ?, total_steps = ? WHERE id = ?", (state.global_step, state.max_steps, self.job.id))

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.losses[state.global_step] = logs["loss"]
            data = {"step": state.global_step, "train_loss": logs["loss"], "learning_rate": logs.get("learning_rate")}
            self.note(f"Step {state.global_step}/{state.max_steps}: training loss={logs['loss']:.4f}", data=data)

    def on_evaluate(self, args, state, control, metrics=None, **_):
        found = {key.removeprefix("eval_"): value for key, value in metrics.items() if key.startswith("eval_") and is_metric(key)}
        self.checkpoint(state.global_step, {"valid_loss" if key == "loss" else key: value for key, value in found.items()})

    def checkpoint(self, step: int, metrics: dict) -> None:
        values = ", ".join(f"{name}={value:.4f}" for name, value in metrics.items())
        with self.store.change() as db:
            db.execute("DELETE FROM checkpoint WHERE job_id = ? AND step = ?", (self.job.id, step))
            self.store.insert("checkpoint", id=new_id("ftckpt_"), job_id=self.job.id, created_at=int(time.time()), step=step, metrics=json.dumps(metrics))
            self.store.event(self.job.id, f"Step {step}: {values}", data={"step": step, **metrics})


def is_metric(key: str) -> bool:
    return not key.endswith(("runtime", "per_second", "epoch"))


# Rows


def load(settings: Settings, file_id: str) -> list[dict]:
    return list(rows.read(settings.file_path(file_id), settings.max_rows, settings.max_row_bytes))


def embedding_columns(loaded: list[dict]) -> dict[str, list]:
    """Columns in the order that the losses want them; their names mean nothing to those."""
    if loaded[0]["shape"] == "scored":
        return {name: [row[name] for row in loaded] for name in ("sentence1", "sentence2", "score")}
    flat = rows.tuples(loaded)
    columns = {name: [row[name] for row in flat] for name in ("anchor", "positive")}
    for index in range(len(flat[0]["negatives"])):
        columns[f"negative_{index + 1}"] = [row["negatives"][index] for row in flat]
    return columns


def rerank_columns(loaded: list[dict]) -> dict[str, list]:
    flat = rows.labelled(loaded)
    return {name: [row[name] for row in flat] for name in ("query", "document", "label")}


def count_tokens(tokenizer, columns: dict[str, list], longest: int) -> int:
    """Tokens of all texts, each cut to what the model reads."""
    total = 0
    for texts in columns.values():
        for start in range(0, len(texts), 1000):
            part = texts[start : start + 1000]
            if isinstance(part[0], str):
                total += sum(min(len(ids), longest) for ids in tokenizer(part, truncation=True, max_length=longest)["input_ids"])
    return total


# Training


def prepare(job: Job):
    """Model, its trainer classes, the score it is judged by and the columns it is trained on."""
    length = {"max_length": job.knobs.pgft_max_seq_length}
    if job.knobs.pgft_task == "rerank":
        model = CrossEncoder(str(job.base), num_labels=1, **(length if length["max_length"] else {}))
        return model, CrossEncoderTrainer, CrossEncoderTrainingArguments, by_cross_encoder, rerank_columns
    model = SentenceTransformer(str(job.base))
    if job.knobs.pgft_max_seq_length:
        model.max_seq_length = job.knobs.pgft_max_seq_length
    if job.knobs.pgft_lora_r:
        from peft import LoraConfig, TaskType

        rank = job.knobs.pgft_lora_r
        model.add_adapter(LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=rank, lora_alpha=2 * rank, lora_dropout=0.0))
    return model, SentenceTransformerTrainer, SentenceTransformerTrainingArguments, by_cosine, embedding_columns


def choose_loss(job: Job, model, columns: dict[str, list]):
    if job.knobs.pgft_task == "rerank":
        return BinaryCrossEntropyLoss(model), BatchSamplers.BATCH_SAMPLER
    name = losses.choose(job.knobs.pgft_loss, list(columns))
    sizes = [int(size) for size in (job.knobs.pgft_matryoshka or "").split(",") if size]
    if sizes and max(sizes) > model.get_embedding_dimension():
        raise ValueError(f"pgft_matryoshka: {max(sizes)} is more than the model's {model.get_embedding_dimension()} dimensions")
    # A text twice in a batch would be its own negative.
    sampler = BatchSamplers.NO_DUPLICATES if "mnrl" in name else BatchSamplers.BATCH_SAMPLER
    return losses.build(name, model, job.knobs.pgft_temperature, sizes), sampler


def arguments(kind, job: Job, sampler, train_rows: int, evaluator):
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    steps = max(1, -(-train_rows // (job.batch * processes))) * job.epochs
    judged = {"eval_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": f"eval_{evaluator.primary_metric}",
              "greater_is_better": True} if evaluator else {}  # fmt: skip
    return kind(
        output_dir=str(job.folder / "checkpoints"), num_train_epochs=job.epochs, seed=job.seed, data_seed=job.seed,
        per_device_train_batch_size=job.batch, per_device_eval_batch_size=job.batch, batch_sampler=sampler,
        learning_rate=job.learning_rate, lr_scheduler_type="linear", warmup_steps=int(job.knobs.pgft_warmup * steps),
        logging_steps=max(1, steps // 50), save_strategy="epoch", save_total_limit=2, report_to="none", disable_tqdm=True,
        # Without this, several processes on a machine without accelerators would not find each other.
        use_cpu=not torch.accelerator.is_available(),
        dataloader_drop_last=False, **judged,
    )  # fmt: skip


def last_checkpoint(folder: Path) -> str | None:
    """The newest one whose last file is there and whole; what a killed process left half-written is removed."""
    found = sorted((folder / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)
    for path in found:
        try:
            json.loads((path / "trainer_state.json").read_text())
            return str(path)
        except (OSError, ValueError):
            shutil.rmtree(path, ignore_errors=True)
    return None


def train(settings: Settings, store: Store | None, job: Job) -> None:
    set_seed(job.seed)
    model, trainer_class, arguments_class, score, to_columns = prepare(job)
    columns = to_columns(load(settings, job.training_file))
    validation = load(settings, job.validation_file) if job.validation_file else None
    ranked = [row for row in rows.labelled(validation)] if validation else []
    evaluator = UserRanking(ranked, score) if ranked else None
    loss, sampler = choose_loss(job, model, columns)
    reporter, first = Reporter(store, job), int(os.environ.get("RANK", "0")) == 0
    base_metrics = judge_base(store, reporter, job, evaluator, model) if evaluator and first else None

    train_rows = len(next(iter(columns.values())))
    trainer = trainer_class(
        model=model,
        args=arguments(arguments_class, job, sampler, train_rows, evaluator),
        train_dataset=Dataset.from_dict(columns),
        eval_dataset=Dataset.from_dict(to_columns(validation)) if validation else None,
        loss=loss,
        evaluator=evaluator,
        callbacks=[reporter] if first else [],
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(job.folder))
    if trainer.is_world_process_zero():
        kept = keep_base(job, reporter, trainer.state.best_metric, base_metrics)
        tokens = count_tokens(model.tokenizer, columns, model.max_seq_length or 512) * job.epochs
        finish(settings, store, job, prepare(job)[0] if kept else model, tokens)


def judge_base(store: Store, reporter: Reporter, job: Job, evaluator: UserRanking, model) -> dict:
    """Before anything is trained, so that the base stands in every report. Known already when a job goes on."""
    known = store.row("SELECT metrics FROM checkpoint WHERE job_id = ? AND step = 0", job.id)
    if known:
        return json.loads(known["metrics"])
    metrics = evaluator(model)
    reporter.checkpoint(0, metrics)
    return metrics


def keep_base(job: Job, reporter: Reporter, best: float | None, base: dict | None) -> bool:
    if best is None or base is None or best > base["user_auc"]:
        return False
    reporter.note(f"Kept the base: no epoch ranks better than its user_auc of {base['user_auc']:.4f} (best {best:.4f})", "warn")
    return True


def finish(settings: Settings, store: Store, job: Job, model, tokens: int) -> None:
    """Model and results appear together; the folder is complete before its name is known."""
    fresh, target = job.folder / "model.new", settings.model_path(job.model_id)
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(str(fresh))
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    result = new_id("file-")
    write_results(store, job, settings.file_path(result))
    now, size = int(time.time()), settings.file_path(result).stat().st_size
    with store.change() as db:
        sql = """UPDATE job SET status = 'succeeded', finished_at = ?, model_id = ?, trained_tokens = ?, result_file = ?
                 WHERE id = ? AND status = 'running'"""
        if db.execute(sql, (now, job.model_id, tokens, result, job.id)).rowcount == 0:
            return shutil.rmtree(target, ignore_errors=True)
        store.insert("model", id=job.model_id, created_at=now, job_id=job.id, base=job.base_name, task=job.knobs.pgft_task)
        store.insert("file", id=result, created_at=now, filename="step_metrics.csv", purpose="fine-tune-results", bytes=size)
        store.event(job.id, f"New fine-tuned model created: {job.model_id}")
        store.event(job.id, "The job has successfully completed")
    shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)


def write_results(store: Store, job: Job, path: Path) -> None:
    """CSV: step, train_loss, valid_loss, user_auc, ndcg_at_10, mrr_at_10; empty where a step has no such figure."""
    steps: dict[int, dict] = {}
    for row in store.rows("SELECT data FROM event WHERE job_id = ? AND type = 'metrics' ORDER BY seq", job.id):
        data = json.loads(row["data"])
        steps.setdefault(data["step"], {}).update(data)
    names = ["step", "train_loss", "valid_loss", "user_auc", "ndcg_at_10", "mrr_at_10"]
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, names, extrasaction="ignore")
        table.writeheader()
        table.writerows(steps[step] for step in sorted(steps))


# The process


def end_with_server() -> None:
    """A training whose server is gone would write beside the one that the next server starts.

    Standard input is a pipe that nobody but the server holds open: it ends when the server does, also while this process still
    starts, and whatever launcher stands between. On another machine there is none.
    """
    if LIFELINE in os.environ:
        threading.Thread(target=lambda: os.read(0, 1) or os.kill(os.getpid(), signal.SIGTERM), name="lifeline", daemon=True).start()


def run(settings: Settings, job_id: str) -> int:
    end_with_server()
    first, folder = int(os.environ.get("RANK", "0")) == 0, settings.job_path(job_id)
    # The first process alone opens the database: SQLite's log cannot be shared between machines.
    store = Store(settings.database) if first else None
    with (folder / "lock").open("w") as lock:
        if first:
            fcntl.flock(lock, fcntl.LOCK_EX)
            moved = store.move_job(job_id, "running", "Fine-tuning job started", running_since=int(time.time()))
            if not moved:
                return 0
        job = Job(settings, json.loads((folder / "job.json").read_text()))
        try:
            train(settings, store, job)
        except ValueError as error:
            # What the rows or the parameters cannot do; a broken machine or driver raises other things and is tried again.
            if first:
                store.fail_job(job_id, "invalid_request", str(error))
            raise
    return 0
