"""The HTTP surface: files, jobs, events, checkpoints, models, embeddings, rerank, healthz.

Handlers are plain functions: FastAPI runs them in its thread pool, so that neither SQLite nor a model holds up the loop.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import shutil
import time
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, File, Form, Header, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from . import __version__, rows
from .config import Settings
from .errors import ApiError, bad_request, not_found
from .requests import CreateEmbedding, CreateJob, Knobs, Rerank
from .serving import Models
from .store import OPEN, Store, new_id
from .supervisor import Supervisor

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
SUFFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def create_app(settings: Settings) -> FastAPI:
    settings.prepare()
    supervisor = Supervisor(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        supervisor.start()
        yield
        supervisor.stop()

    app = FastAPI(title="pg_finetune trainer", version=__version__, lifespan=lifespan, openapi_url=None, max_body_size=settings.max_body_bytes)
    add_errors(app)
    add_routes(app, settings, Store(settings.database), Models(settings), supervisor)
    return app


def add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    def own(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return own(_, from_validation(error.errors()))

    @app.exception_handler(HTTPException)
    def http(_: Request, error: HTTPException) -> JSONResponse:
        answer = own(_, ApiError(error.status_code, None, str(error.detail)))
        answer.headers.update(error.headers or {})
        return answer


def from_validation(errors: list) -> ApiError:
    """The first problem, named by its path inside the request."""
    first = errors[0]
    path = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return bad_request("invalid_value", f"{path or 'request'}: {first['msg']}", path or None)


def add_routes(app: FastAPI, settings: Settings, store: Store, models: Models, supervisor: Supervisor) -> None:
    def authorize(authorization: Annotated[str, Header()] = "") -> None:
        expected = f"Bearer {settings.api_key}".encode()
        if not hmac.compare_digest(authorization.encode(), expected):
            raise ApiError(401, "invalid_api_key", "the bearer key is missing or wrong")

    @app.get("/healthz")
    def healthz() -> dict:
        waiting = store.row("SELECT count(*) AS n FROM job WHERE status IN (?, ?, ?)", *OPEN)["n"]
        return {"status": "ok", "version": __version__, "open_jobs": waiting, "training": supervisor.busy()}

    add_file_routes(app, settings, store, [Depends(authorize)])
    add_job_routes(app, settings, store, [Depends(authorize)], supervisor)
    add_model_routes(app, settings, store, [Depends(authorize)], models)


# Files


def file_object(row) -> dict:
    file = {"id": row["id"], "object": "file", "bytes": row["bytes"], "created_at": row["created_at"],
            "filename": row["filename"], "purpose": row["purpose"], "status": "processed"}  # fmt: skip
    return {**file, "expires_at": row["expires_at"]} if row["expires_at"] else file


def find_file(store: Store, file_id: str, param: str = "file_id"):
    row = store.row("SELECT * FROM file WHERE id = ?", file_id)
    if row is None or (row["expires_at"] and row["expires_at"] < time.time()):
        raise not_found("file", file_id, param)
    return row


def expiry(form: dict, now: int) -> int | None:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise bad_request("invalid_value", 'expires_after[anchor] must be "created_at"', "expires_after")
    if not (isinstance(seconds, str) and seconds.isascii() and seconds.isdigit() and 3600 <= int(seconds[:9]) <= 2592000):
        raise bad_request("invalid_value", "expires_after[seconds] must be from 3600 to 2592000", "expires_after")
    return now + int(seconds)


def add_file_routes(app: FastAPI, settings: Settings, store: Store, guard: list) -> None:
    @app.post("/v1/files", dependencies=guard, max_body_size=settings.max_file_bytes + 65536)
    def create_file(
        file: Annotated[UploadFile, File()],
        purpose: Annotated[Literal[PURPOSES], Form()],
        anchor: Annotated[str | None, Form(alias="expires_after[anchor]")] = None,
        seconds: Annotated[str | None, Form(alias="expires_after[seconds]")] = None,
    ) -> dict:
        name = file.filename or ""
        if purpose == "fine-tune" and not name.endswith(".jsonl"):
            raise bad_request("invalid_file_format", "a training file's name must end with .jsonl", "file")
        if not name or len(name) > 255:
            raise bad_request("invalid_value", "the file's name must have 1 to 255 characters", "file")
        now, file_id = int(time.time()), new_id("file-")
        expires_at = expiry({"expires_after[anchor]": anchor, "expires_after[seconds]": seconds}, now)
        path = settings.file_path(file_id)
        with path.with_suffix(".new").open("wb") as target:
            shutil.copyfileobj(file.file, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        path.with_suffix(".new").rename(path)
        if path.stat().st_size > settings.max_file_bytes:
            path.unlink()
            raise ApiError(413, "file_too_large", f"a file may have at most {settings.max_file_bytes} bytes", "file")
        with store.change():
            store.insert("file", id=file_id, created_at=now, expires_at=expires_at, filename=name, purpose=purpose, bytes=path.stat().st_size)
        return file_object(find_file(store, file_id))

    @app.get("/v1/files", dependencies=guard)
    def list_files(
        purpose: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10000)] = 10000,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> dict:
        now = int(time.time())
        where, values = "(expires_at IS NULL OR expires_at >= ?) AND (? IS NULL OR purpose = ?)", (now, purpose, purpose)
        found, more = store.page("file", where, values, after, limit, newest_first=order == "desc")
        data = [file_object(row) for row in found]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": "", "last_id": ""}
        return {"object": "list", "data": data, **ends, "has_more": more}

    @app.get("/v1/files/{file_id}", dependencies=guard)
    def retrieve_file(file_id: str) -> dict:
        return file_object(find_file(store, file_id))

    @app.get("/v1/files/{file_id}/content", dependencies=guard)
    def download_file(file_id: str) -> FileResponse:
        find_file(store, file_id)
        return FileResponse(settings.file_path(file_id), media_type="application/octet-stream")

    @app.delete("/v1/files/{file_id}", dependencies=guard)
    def delete_file(file_id: str) -> dict:
        find_file(store, file_id)
        with store.change() as db:
            db.execute("DELETE FROM file WHERE id = ?", (file_id,))
        settings.file_path(file_id).unlink(missing_ok=True)
        return {"id": file_id, "object": "file", "deleted": True}


# Jobs


def job_object(row) -> dict:
    request = json.loads(row["request"])
    hyperparameters = (request["method"] or {}).get("supervised", {}).get("hyperparameters") or request["hyperparameters"] or {}
    estimate = None
    if row["status"] == "running" and row["step"] and row["total_steps"]:
        elapsed = time.time() - row["running_since"]
        estimate = int(time.time() + elapsed / row["step"] * (row["total_steps"] - row["step"]))
    return {
        "id": row["id"], "object": "fine_tuning.job", "created_at": row["created_at"], "finished_at": row["finished_at"],
        "status": row["status"], "model": request["model"], "fine_tuned_model": row["model_id"],
        "training_file": request["training_file"], "validation_file": request["validation_file"],
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "organization_id": "org-local", "result_files": [row["result_file"]] if row["result_file"] else [],
        "seed": row["seed"], "trained_tokens": row["trained_tokens"],
        "error": json.loads(row["error"]) if row["error"] else None,
        "estimated_finish": estimate, "metadata": request["metadata"] or {}, "integrations": [],
    }  # fmt: skip


def find_job(store: Store, job_id: str):
    row = store.row("SELECT * FROM job WHERE id = ?", job_id)
    if row is None:
        raise not_found("fine-tuning job", job_id, "fine_tuning_job_id")
    return row


def check_job(settings: Settings, store: Store, job: CreateJob) -> dict:
    """The request with every name resolved; refused before anything is kept."""
    if job.model not in settings.bases:
        known = ", ".join(sorted(settings.bases)) or "none"
        raise not_found_base(job.model, known)
    if job.method and job.method.type != "supervised":
        raise bad_request("unsupported_method", f"method {job.method.type} is not supported, supervised is", "method")
    if job.suffix is not None and not SUFFIX.fullmatch(job.suffix):
        raise bad_request("invalid_value", "suffix: letters, digits, dot, dash and underscore only", "suffix")
    for param in ("training_file", "validation_file"):
        if (file_id := getattr(job, param)) is not None and find_file(store, file_id, param)["purpose"] != "fine-tune":
            raise bad_request("invalid_file_purpose", f"{file_id} was not uploaded with purpose fine-tune", param)
    own = {key for key in job.metadata or {} if key.startswith("pgft_")} - Knobs.model_fields.keys() - {"pgft_run"}
    if own:
        raise bad_request("invalid_value", f"metadata: unknown trainer parameter {sorted(own)[0]}", "metadata")
    try:
        Knobs.model_validate(job.metadata or {})
    except ValidationError as error:
        problem = from_validation(error.errors())
        raise bad_request("invalid_value", f"metadata: {problem.message}", "metadata") from None
    return job.model_dump(mode="json")


def not_found_base(name: str, known: str) -> ApiError:
    return ApiError(404, "model_not_found", f"base model {name!r} is not on the list of this trainer; known: {known}", "model")


def metadata_filter(request: Request) -> dict | None:
    """`metadata[k]=v` pairs; None for `metadata=null`, the jobs without."""
    if request.query_params.get("metadata") == "null":
        return None
    pairs = [(key[len("metadata[") : -1], value) for key, value in request.query_params.multi_items()
             if key.startswith("metadata[") and key.endswith("]")]  # fmt: skip
    return dict(pairs)


def add_job_routes(app: FastAPI, settings: Settings, store: Store, guard: list, supervisor: Supervisor) -> None:
    @app.post("/v1/fine_tuning/jobs", dependencies=guard)
    def create_job(job: CreateJob, idempotency_key: Annotated[str | None, Header(max_length=255)] = None) -> dict:
        request = check_job(settings, store, job)
        job_id, conflict = store.create_job(request, idempotency_key, settings.idempotency_seconds)
        if conflict:
            raise ApiError(409, "idempotency_conflict", "this Idempotency-Key came with another request before")
        supervisor.wake()
        return job_object(find_job(store, job_id))

    @app.get("/v1/fine_tuning/jobs", dependencies=guard)
    def list_jobs(request: Request, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None) -> dict:
        wanted = metadata_filter(request)
        where, values = "1", ()
        if wanted is None:
            where = "coalesce(json_extract(request, '$.metadata'), '{}') = '{}'"
        for key, value in (wanted or {}).items():
            where += " AND EXISTS (SELECT 1 FROM json_each(job.request, '$.metadata') m WHERE m.key = ? AND m.value = ?)"
            values += (key, value)
        found, more = store.page("job", where, values, after, limit)
        return {"object": "list", "data": [job_object(row) for row in found], "has_more": more}

    @app.get("/v1/fine_tuning/jobs/{job_id}", dependencies=guard)
    def retrieve_job(job_id: str) -> dict:
        return job_object(find_job(store, job_id))

    @app.post("/v1/fine_tuning/jobs/{job_id}/cancel", dependencies=guard)
    def cancel_job(job_id: str) -> dict:
        row = find_job(store, job_id)
        if row["status"] not in OPEN:
            raise bad_request("job_ended", f"the job has ended: {row['status']}", "fine_tuning_job_id")
        with store.change() as db:
            db.execute("UPDATE job SET cancel_requested = 1 WHERE id = ?", (job_id,))
        store.move_job(job_id, "cancelled", "The job was cancelled")
        supervisor.wake()
        return job_object(find_job(store, job_id))

    @app.post("/v1/fine_tuning/jobs/{job_id}/{action}", dependencies=guard)
    def pause_or_resume(job_id: str, action: Literal["pause", "resume"]) -> dict:
        find_job(store, job_id)
        raise bad_request("not_supported", f"{action} is not supported; cancel the job and create it again", "fine_tuning_job_id")

    @app.get("/v1/fine_tuning/jobs/{job_id}/events", dependencies=guard)
    def list_events(job_id: str, limit: Annotated[int, Query(ge=1, le=1000)] = 20, after: str | None = None) -> dict:
        find_job(store, job_id)
        found, more = store.page("event", "job_id = ?", (job_id,), after, limit)
        data = [{"id": row["id"], "object": "fine_tuning.job.event", "created_at": row["created_at"], "level": row["level"],
                 "message": row["message"], "type": row["type"], "data": json.loads(row["data"])} for row in found]  # fmt: skip
        return {"object": "list", "data": data, "has_more": more}

    @app.get("/v1/fine_tuning/jobs/{job_id}/checkpoints", dependencies=guard)
    def list_checkpoints(job_id: str, limit: Annotated[int, Query(ge=1, le=1000)] = 10, after: str | None = None) -> dict:
        model = find_job(store, job_id)["model_id"]
        found, more = store.page("checkpoint", "job_id = ?", (job_id,), after, limit)
        # Only the best step is kept as a model; the others are known by their metrics.
        data = [{"id": row["id"], "object": "fine_tuning.job.checkpoint", "created_at": row["created_at"], "fine_tuning_job_id": job_id,
                 "step_number": row["step"], "metrics": json.loads(row["metrics"]),
                 "fine_tuned_model_checkpoint": f"{model or job_id}:ckpt-step-{row['step']}"} for row in found]  # fmt: skip
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return {"object": "list", "data": data, **ends, "has_more": more}


# Models


def add_model_routes(app: FastAPI, settings: Settings, store: Store, guard: list, models: Models) -> None:
    def known() -> list[dict]:
        bases = [{"id": name, "object": "model", "created": 0, "owned_by": "base"} for name in sorted(settings.bases)]
        tuned = store.rows("SELECT * FROM model ORDER BY seq")
        return bases + [{"id": row["id"], "object": "model", "created": row["created_at"], "owned_by": "org-local"} for row in tuned]

    def find(name: str) -> dict:
        return next((model for model in known() if model["id"] == name), None) or not_here(name)

    def not_here(name: str):
        raise not_found("model", name, "model")

    @app.get("/v1/models", dependencies=guard)
    def list_models() -> dict:
        return {"object": "list", "data": known()}

    @app.get("/v1/models/{model}", dependencies=guard)
    def retrieve_model(model: str) -> dict:
        return find(model)

    @app.delete("/v1/models/{model}", dependencies=guard)
    def delete_model(model: str) -> dict:
        if find(model)["owned_by"] == "base":
            raise bad_request("not_supported", f"{model} is a base model; it is removed from the trainer's start command", "model")
        with store.change() as db:
            db.execute("DELETE FROM model WHERE id = ?", (model,))
        models.forget(model)
        shutil.rmtree(settings.model_path(model), ignore_errors=True)
        return {"id": model, "object": "model", "deleted": True}

    @app.post("/v1/embeddings", dependencies=guard)
    def create_embedding(request: CreateEmbedding) -> dict:
        find(request.model)
        texts = [request.input] if isinstance(request.input, str) else request.input
        vectors, tokens = models.embed(request.model, texts, request.dimensions)
        as_asked = (lambda v: base64.b64encode(v.astype("<f4").tobytes()).decode()) if request.encoding_format == "base64" else (lambda v: v.tolist())
        data = [{"object": "embedding", "index": i, "embedding": as_asked(vector)} for i, vector in enumerate(vectors)]
        return {"object": "list", "model": request.model, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}

    @app.post("/v1/rerank", dependencies=guard)
    def rerank(request: Rerank) -> dict:
        find(request.model)
        scores = models.rerank(request.model, request.query, request.documents)
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: request.top_n]
        results = [{"index": i, "relevance_score": scores[i]} for i in order]
        if request.return_documents:
            results = [{**result, "document": {"text": request.documents[result["index"]]}} for result in results]
        return {"id": new_id("rerank-"), "model": request.model, "results": results}
