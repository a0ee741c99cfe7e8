"""Losses by name. The default for rows with negatives is a softmax over exactly the given ones."""

from __future__ import annotations

import torch
from sentence_transformers.sentence_transformer import losses
from torch import nn
from torch.nn import functional


class GivenNegativesLoss(nn.Module):
    """Cross-entropy of the positive against its own negatives, and nobody else's.

    In-batch negatives teach a model that what others saved is wrong; where tastes differ that is false. Inputs are the columns anchor,
    positive, negative_1, …; scores are cosines over the temperature.
    """

    def __init__(self, model, temperature: float):
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, sentence_features, labels=None):
        anchor, *candidates = (functional.normalize(self.model(features)["sentence_embedding"], dim=1) for features in sentence_features)
        scores = torch.stack([(anchor * candidate).sum(dim=1) for candidate in candidates], dim=1) / self.temperature
        return functional.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))


SCORED = ("cosent", "contrastive")
NEED_NEGATIVES = ("softmax", "triplet")


def choose(name: str, columns: list[str]) -> str:
    """The loss that `auto` means for these columns; refuses one that cannot work with them."""
    scored, negatives = "score" in columns, len(columns) > 2 and "score" not in columns
    if name == "auto":
        return "cosent" if scored else "softmax" if negatives else "mnrl"
    if scored != (name in SCORED):
        raise ValueError(f"loss {name} does not fit rows with the columns {', '.join(columns)}")
    if name in NEED_NEGATIVES and not negatives:
        raise ValueError(f"loss {name} needs rows with negatives")
    return name


def build(name: str, model, temperature: float, matryoshka: list[int]) -> nn.Module:
    scale = 1 / temperature
    loss = {
        "softmax": lambda: GivenNegativesLoss(model, temperature),
        "mnrl": lambda: losses.MultipleNegativesRankingLoss(model, scale=scale),
        "cached_mnrl": lambda: losses.CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=32),
        "triplet": lambda: losses.TripletLoss(model, distance_metric=losses.TripletDistanceMetric.COSINE, triplet_margin=0.1),
        "cosent": lambda: losses.CoSENTLoss(model, scale=scale),
        "contrastive": lambda: losses.ContrastiveLoss(model),
    }[name]()
    return losses.MatryoshkaLoss(model, loss, matryoshka) if matryoshka else loss
