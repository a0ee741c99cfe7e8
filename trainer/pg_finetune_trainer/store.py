"""State in SQLite: files, jobs, events, checkpoints, models. Survives a kill at any moment (WAL, one transaction a change)."""

from __future__ import annotations

import json
import secrets
import sqlite3
import string
import threading
import time
from contextlib import contextmanager
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS file (
    id TEXT PRIMARY KEY, seq INTEGER UNIQUE NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER,
    filename TEXT NOT NULL, purpose TEXT NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS job (
    id TEXT PRIMARY KEY, seq INTEGER UNIQUE NOT NULL, created_at INTEGER NOT NULL, finished_at INTEGER,
    status TEXT NOT NULL, request TEXT NOT NULL, seed INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0, model_id TEXT, trained_tokens INTEGER, result_file TEXT,
    error TEXT, step INTEGER, total_steps INTEGER, running_since INTEGER);
CREATE TABLE IF NOT EXISTS idempotency (key TEXT PRIMARY KEY, job_id TEXT NOT NULL, request TEXT NOT NULL, created_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS event (
    id TEXT PRIMARY KEY, seq INTEGER UNIQUE NOT NULL, job_id TEXT NOT NULL, created_at INTEGER NOT NULL,
    level TEXT NOT NULL, type TEXT NOT NULL, message TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS event_of_job ON event (job_id, seq);
CREATE TABLE IF NOT EXISTS checkpoint (
    id TEXT PRIMARY KEY, seq INTEGER UNIQUE NOT NULL, job_id TEXT NOT NULL, created_at INTEGER NOT NULL,
    step INTEGER NOT NULL, metrics TEXT NOT NULL, UNIQUE (job_id, step));
CREATE TABLE IF NOT EXISTS model (
    id TEXT PRIMARY KEY, seq INTEGER UNIQUE NOT NULL, created_at INTEGER NOT NULL, job_id TEXT NOT NULL,
    base TEXT NOT NULL, task TEXT NOT NULL);
"""

OPEN = ("validating_files", "queued", "running")
ALPHABET = string.ascii_letters + string.digits


def new_id(prefix: str, length: int = 24) -> str:
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(length))


class Store:
    """A connection for each thread that uses it."""

    def __init__(self, path: Path):
        self.path, self.local = path, threading.local()
        for statement in SCHEMA.split(";"):
            self.db.execute(statement)

    @property
    def db(self) -> sqlite3.Connection:
        if not hasattr(self.local, "db"):
            self.local.db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            self.local.db.row_factory = sqlite3.Row
            self.local.db.execute("PRAGMA journal_mode = WAL")
            self.local.db.execute("PRAGMA synchronous = FULL")
        return self.local.db

    @contextmanager
    def change(self):
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def row(self, sql: str, *values) -> sqlite3.Row | None:
        return self.db.execute(sql, values).fetchone()

    def rows(self, sql: str, *values) -> list[sqlite3.Row]:
        return self.db.execute(sql, values).fetchall()

    def insert(self, table: str, **columns) -> None:
        """One row with the table's next seq, the order of all lists. Call it inside `change`."""
        names, marks = ", ".join(columns), ", ".join("?" for _ in columns)
        sql = f"INSERT INTO {table} (seq, {names}) SELECT coalesce(max(seq), 0) + 1, {marks} FROM {table}"
        self.db.execute(sql, tuple(columns.values()))

    def page(self, table: str, where: str, values: tuple, after: str | None, limit: int, newest_first: bool = True) -> tuple[list, bool]:
        """Rows after the one with id `after`, at most `limit`, and whether there are more. An unknown `after` ends the list."""
        sign, order = ("<", "DESC") if newest_first else (">", "ASC")
        if after is not None:
            where += f" AND seq {sign} (SELECT seq FROM {table} WHERE id = ?)"
            values = (*values, after)
        rows = self.rows(f"SELECT * FROM {table} WHERE {where} ORDER BY seq {order} LIMIT ?", *values, limit + 1)
        return rows[:limit], len(rows) > limit

    # Jobs

    def event(self, job_id: str, message: str, level: str = "info", data: dict | None = None) -> None:
        """Call it inside `change`. With data it is of type metrics."""
        self.insert("event", id=new_id("ftevent-"), job_id=job_id, created_at=int(time.time()), level=level,
                    type="metrics" if data else "message", message=message, data=json.dumps(data or {}))  # fmt: skip

    def create_job(self, request: dict, key: str | None, keep_seconds: int) -> tuple[str, bool]:
        """Id of the job, and whether the idempotency key met another request before (then nothing is created)."""
        text = json.dumps(request, sort_keys=True)
        now = int(time.time())
        with self.change() as db:
            db.execute("DELETE FROM idempotency WHERE created_at < ?", (now - keep_seconds,))
            known = db.execute("SELECT job_id, request FROM idempotency WHERE key = ?", (key,)).fetchone() if key else None
            if known:
                return known["job_id"], known["request"] != text
            job_id = new_id("ftjob-")
            seed = request["seed"] if request["seed"] is not None else secrets.randbelow(2**31)
            self.insert("job", id=job_id, created_at=now, status="validating_files", request=text, seed=seed)
            if key:
                db.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?)", (key, job_id, text, now))
            self.event(job_id, f"Created fine-tuning job: {job_id}")
        return job_id, False

    def move_job(self, job_id: str, status: str, message: str, **columns) -> bool:
        """To another status, if it has not ended. The event is written with it."""
        level = "error" if status == "failed" else "info"
        if status not in OPEN:
            columns["finished_at"] = int(time.time())
        assignments = "".join(f", {name} = ?" for name in columns)
        with self.change() as db:
            sql = f"UPDATE job SET status = ?{assignments} WHERE id = ? AND status IN (?, ?, ?)"
            moved = db.execute(sql, (status, *columns.values(), job_id, *OPEN)).rowcount == 1
            if moved:
                self.event(job_id, message, level)
        return moved

    def fail_job(self, job_id: str, code: str, message: str, param: str | None = None) -> bool:
        error = json.dumps({"code": code, "message": message, "param": param})
        return self.move_job(job_id, "failed", message, error=error)

    def next_job(self) -> sqlite3.Row | None:
        return self.row("SELECT * FROM job WHERE status IN (?, ?, ?) ORDER BY seq LIMIT 1", *OPEN)
