"""Finished models in memory: the last few that were asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

from .config import Settings
from .errors import bad_request
from .store import Store


class Models:
    def __init__(self, settings: Settings):
        self.settings = settings
        self.store = Store(settings.database)
        self.loaded: OrderedDict[str, object] = OrderedDict()
        # One at a time: two loads or two passes beside each other only fight for the same cores and memory.
        self.lock = threading.Lock()

    def forget(self, name: str) -> None:
        with self.lock:
            self.loaded.pop(name, None)

    def task(self, name: str) -> str:
        row = self.store.row("SELECT task FROM model WHERE id = ?", name)
        return row["task"] if row else "embedding"

    def get(self, name: str):
        """Call it with the lock held."""
        if name not in self.loaded:
            from sentence_transformers import CrossEncoder, SentenceTransformer

            path = str(self.settings.bases.get(name) or self.settings.model_path(name))
            self.loaded[name] = CrossEncoder(path) if self.task(name) == "rerank" else SentenceTransformer(path)
            while len(self.loaded) > self.settings.cached_models:
                self.loaded.popitem(last=False)
        self.loaded.move_to_end(name)
        return self.loaded[name]

    def embed(self, name: str, texts: list[str], dimensions: int | None) -> tuple[np.ndarray, int]:
        """Unit vectors (one row a text, float32) and the number of tokens read. Fewer dimensions: the first ones, unit again."""
        if self.task(name) == "rerank":
            raise bad_request("wrong_task", f"{name} is a reranker; ask /v1/rerank", "model")
        with self.lock:
            model = self.get(name)
            full = model.get_embedding_dimension()
            if dimensions is not None and dimensions > full:
                raise bad_request("invalid_value", f"dimensions: {name} has {full}", "dimensions")
            vectors = model.encode(texts, batch_size=64, truncate_dim=dimensions, normalize_embeddings=True, show_progress_bar=False)
            ids = model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]
        return np.asarray(vectors, dtype=np.float32), sum(len(one) for one in ids)

    def rerank(self, name: str, query: str, documents: list[str]) -> list[float]:
        """Relevance of each document: a reranker's probability, or the cosine of an embedding model."""
        with self.lock:
            model = self.get(name)
            if self.task(name) == "rerank":
                return [float(score) for score in model.predict([(query, text) for text in documents], show_progress_bar=False)]
            vectors = model.encode([query, *documents], batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        return [float(score) for score in vectors[1:] @ vectors[0]]
