"""Settings, from the command line and the environment."""

from __future__ import annotations

import argparse
import os
import re
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path

MIB = 1024 * 1024
LIFELINE = "PG_FINETUNE_TRAINER_LIFELINE"
"""Set for a training whose standard input ends with the server."""


@dataclass(frozen=True)
class Settings:
    data: Path
    """State, files and models; everything that has to survive is in here."""
    bases: dict[str, Path] = field(default_factory=dict)
    """Allow-listed base models: name -> sentence-transformers folder. Nothing else is ever loaded as a base."""
    host: str = "127.0.0.1"
    port: int = 8484
    api_key: str = field(default="", repr=False)
    max_file_bytes: int = 512 * MIB
    max_body_bytes: int = 8 * MIB
    """For every request but an upload."""
    max_rows: int = 1_000_000
    max_row_bytes: int = MIB
    cached_models: int = 2
    """Models kept in memory for /v1/embeddings and /v1/rerank."""
    launch: tuple[str, ...] = ()
    """Arguments of `accelerate launch` before the training module; empty = one plain process."""
    attempts: int = 3
    """Starts of one job before it fails as interrupted."""
    idempotency_seconds: int = 7 * 24 * 3600

    @property
    def database(self) -> Path:
        return self.data / "state.sqlite3"

    def file_path(self, file_id: str) -> Path:
        return self.data / "files" / file_id

    def model_path(self, model_id: str) -> Path:
        return self.data / "models" / model_id.replace(":", "_")

    def job_path(self, job_id: str) -> Path:
        return self.data / "jobs" / job_id

    def prepare(self) -> None:
        for folder in ("files", "models", "jobs"):
            (self.data / folder).mkdir(parents=True, exist_ok=True)
        self.data.chmod(0o700)


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def base_model(text: str) -> tuple[str, Path]:
    """NAME=FOLDER of one allowed base model. A name becomes a path segment and a part of model ids: no slash, no colon."""
    name, _, folder = text.partition("=")
    path = Path(folder).expanduser().resolve()
    if not NAME.fullmatch(name):
        raise argparse.ArgumentTypeError(f"{name!r}: letters, digits, dot, dash and underscore, at most 64")
    if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        raise argparse.ArgumentTypeError(f"{path} holds no model (no modules.json or config.json)")
    return name, path


def api_key(data: Path) -> str:
    """Of PG_FINETUNE_TRAINER_KEY, else of DATA/api_key, which the first start writes."""
    if key := os.environ.get("PG_FINETUNE_TRAINER_KEY"):
        return key
    path = data / "api_key"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("pgft-" + secrets.token_urlsafe(32) + "\n")
    return path.read_text().strip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder for state, files and models")
    parser.add_argument("--base", type=base_model, action="append", default=[], metavar="NAME=FOLDER", help="base model that jobs may name")


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default=Settings.host, help="address to listen on (default: loopback only)")
    parser.add_argument("--port", type=int, default=Settings.port)
    parser.add_argument("--max-file-mib", type=int, default=Settings.max_file_bytes // MIB, help="largest upload")
    parser.add_argument("--cached-models", type=int, default=Settings.cached_models, help="models kept in memory")
    parser.add_argument("--launch", default="", help='arguments of "accelerate launch", for example "--num_processes 2"')


def settings(arguments: argparse.Namespace, **more) -> Settings:
    data = arguments.data.expanduser().resolve()
    return Settings(data=data, bases=dict(arguments.base), **more)


def with_key(given: Settings, key: str) -> Settings:
    """Kept apart from `settings`: a training process has no use for the key."""
    return replace(given, api_key=key)
