"""How a model is judged on the validation rows: each user counts once, however many rows they have."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from sentence_transformers.base.evaluation.evaluator import BaseEvaluator


class UserRanking(BaseEvaluator):
    """Do saved texts score above skipped ones?

    A row gives an anchor its positives and negatives. `user_auc` is the share of (positive, negative) pairs in the right order, ties
    half, per user, then the mean over users; a row without "user" is a user of its own anchor. `mrr_at_10` and `ndcg_at_10` (binary
    gains, log2 discounts) rank each anchor's texts; ties take the mean of the ranks they share, so that no order of rows is favoured.
    """

    def __init__(self, labelled: list[dict], score):
        """`labelled`: {"query", "document", "label", "user"}, label >= 0.5 is positive; `score(model, queries, documents)` -> floats."""
        super().__init__()
        self.rows, self.score = labelled, score
        self.primary_metric = "user_auc"

    def __call__(self, model, output_path=None, epoch=-1, steps=-1) -> dict[str, float]:
        scores = np.asarray(self.score(model, [r["query"] for r in self.rows], [r["document"] for r in self.rows]), dtype=float)
        anchors: dict[tuple, list[int]] = defaultdict(list)
        for index, row in enumerate(self.rows):
            anchors[row["user"] or row["query"], row["query"]].append(index)
        users, rankings = defaultdict(list), []
        for (user, _), members in anchors.items():
            labels = np.array([self.rows[i]["label"] >= 0.5 for i in members])
            if labels.any() and not labels.all():
                values = scores[members]
                users[user].append(pairs_in_order(values, labels))
                rankings.append(ranking(values, labels))
        if not users:
            return {"user_auc": 0.5, "mrr_at_10": 0.0, "ndcg_at_10": 0.0, "users": 0.0}
        auc = [sum(right for right, _ in pairs) / sum(all for _, all in pairs) for pairs in users.values()]
        mrr, ndcg = np.mean(rankings, axis=0)
        return {"user_auc": float(np.mean(auc)), "mrr_at_10": float(mrr), "ndcg_at_10": float(ndcg), "users": float(len(users))}


def pairs_in_order(values: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    """Right pairs (a tie is half of one) and all pairs."""
    difference = values[labels][:, None] - values[~labels][None, :]
    return float((difference > 0).sum() + 0.5 * (difference == 0).sum()), difference.size


def ranking(values: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Reciprocal rank of the first positive and NDCG, both at 10."""
    ranks = np.array([(values > value).sum() + ((values == value).sum() + 1) / 2 for value in values])
    positives = ranks[labels]
    first = positives.min()
    gains = np.where(positives <= 10, 1 / np.log2(positives + 1), 0).sum()
    ideal = (1 / np.log2(np.arange(1, min(labels.sum(), 10) + 1) + 1)).sum()
    return (1 / first if first <= 10 else 0.0), gains / ideal


def by_cosine(model, queries: list[str], documents: list[str]) -> np.ndarray:
    texts = sorted({*queries, *documents})
    vectors = model.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
    place = {text: index for index, text in enumerate(texts)}
    return (vectors[[place[text] for text in queries]] * vectors[[place[text] for text in documents]]).sum(axis=1)


def by_cross_encoder(model, queries: list[str], documents: list[str]) -> np.ndarray:
    return model.predict(list(zip(queries, documents, strict=True)), batch_size=64, show_progress_bar=False)
