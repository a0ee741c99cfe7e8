"""Starts one training process after the other, oldest job first, and sees to it that every job ends.

A process of its own per job: a crash of a driver or the memory killer takes the job's process, not the server. What it leaves is picked
up from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time

from . import rows
from .config import LIFELINE, Settings
from .store import Store


class Supervisor:
    def __init__(self, settings: Settings):
        self.settings = settings
        self.woken, self.ended = threading.Event(), threading.Event()
        self.process: subprocess.Popen | None = None
        self.thread = threading.Thread(target=self.run, name="supervisor", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.ended.set()
        self.woken.set()
        self.thread.join(timeout=15)

    def wake(self) -> None:
        self.woken.set()

    def busy(self) -> bool:
        return self.process is not None

    def run(self) -> None:
        store = Store(self.settings.database)
        while not self.ended.is_set():
            self.woken.clear()
            job = store.next_job()
            if job is None:
                self.remove_expired_files(store)
                self.woken.wait(timeout=60)
            else:
                self.advance(store, job)

    def advance(self, store: Store, job) -> None:
        """One job to its end, or to the end of the server."""
        if job["status"] == "validating_files" and not self.validate(store, job):
            return
        if job["attempts"] >= self.settings.attempts:
            store.fail_job(job["id"], "interrupted", f"the training process died {job['attempts']} times; its log is {self.log_path(job['id'])}")
            return
        with store.change() as db:
            db.execute("UPDATE job SET attempts = attempts + 1 WHERE id = ?", (job["id"],))
        self.train(store, job["id"])

    def validate(self, store: Store, job) -> bool:
        request = json.loads(job["request"])
        for param in ("training_file", "validation_file"):
            if request[param] is None:
                continue
            try:
                shape, count = rows.validate(self.settings.file_path(request[param]), self.settings.max_rows, self.settings.max_row_bytes)
            except rows.BadRow as error:
                store.fail_job(job["id"], f"invalid_{param}", str(error), param)
                return False
            except FileNotFoundError:
                store.fail_job(job["id"], f"invalid_{param}", "the file was deleted", param)
                return False
            with store.change():
                store.event(job["id"], f"{param}: {count} rows of shape {shape}")
        return store.move_job(job["id"], "queued", "Files validated, job queued")

    def log_path(self, job_id: str):
        return self.settings.job_path(job_id) / "log"

    def command(self, job_id: str) -> list[str]:
        module = ["-m", "pg_finetune_trainer", "train", "--data", str(self.settings.data), "--job", job_id]
        for name, path in self.settings.bases.items():
            module += ["--base", f"{name}={path}"]
        if not self.settings.launch:
            return [sys.executable, *module]
        return [sys.executable, "-m", "accelerate.commands.launch", *self.settings.launch, *module]

    def train(self, store: Store, job_id: str) -> None:
        folder = self.settings.job_path(job_id)
        folder.mkdir(exist_ok=True)
        job = store.row("SELECT id, seed, request FROM job WHERE id = ?", job_id)
        (folder / "job.json").write_text(json.dumps(dict(job)))
        command = self.command(job_id)
        with self.log_path(job_id).open("ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())  # what other machines have to run, too
            log.flush()
            # A group of its own: accelerate starts more processes, and all of them have to go with it.
            environment = {**os.environ, "PG_FINETUNE_TRAINER_KEY": "", LIFELINE: "stdin"}
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log,
                                            env=environment, start_new_session=True)  # fmt: skip
        while self.process.poll() is None:
            job = store.row("SELECT cancel_requested FROM job WHERE id = ?", job_id)
            if self.ended.is_set() or job["cancel_requested"]:
                self.end_process()
                break
            time.sleep(0.2)
        self.process.stdin.close()
        self.process = None

    def end_process(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(timeout=10)
                return
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    def remove_expired_files(self, store: Store) -> None:
        for row in store.rows("SELECT id FROM file WHERE expires_at < ?", int(time.time())):
            self.settings.file_path(row["id"]).unlink(missing_ok=True)
            with store.change() as db:
                db.execute("DELETE FROM file WHERE id = ?", (row["id"],))
