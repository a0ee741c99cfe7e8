"""mine_hard_negatives of sentence-transformers on pairs and vectors of a folder: library.py FOLDER OPTIONS, the latter as JSON.

Reads vectors.csv (name, vector) and pairs.csv (anchor, positive), where a name is the number of its row in vectors.csv;
writes library.csv (anchor, positive, negative) and seconds.csv: of the call alone, and on a processor. tests/dataset/triplets.rs runs it, too.
"""

import csv
import json
import pathlib
import sys
import time
from types import SimpleNamespace

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import util

FOLDER = pathlib.Path(sys.argv[1])


class Known:
    """Stands for a model: hands out the vectors that the database holds, so that no time goes into embedding."""

    device = torch.device("cpu")
    model_card_data = SimpleNamespace(base_model="")

    def __init__(self, vectors):
        self.vectors = vectors

    def encode(self, texts, **_):
        return np.ascontiguousarray(self.vectors[[int(text) for text in texts]])

    encode_document = encode_query = encode

    def get_embedding_dimension(self):
        return self.vectors.shape[1]

    def similarity(self, a, b):
        return util.dot_score(a, b)

    def similarity_pairwise(self, a, b):
        return util.pairwise_dot_score(a, b)


def main():
    with open(FOLDER / "vectors.csv", newline="") as file:
        rows = [(row[0], np.fromstring(row[1][1:-1], sep=",", dtype=np.float32)) for row in csv.reader(file)]
    vectors = np.stack([v for _, v in rows])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with open(FOLDER / "pairs.csv", newline="") as file:
        pairs = list(csv.reader(file))
    dataset = Dataset.from_dict({"anchor": [p[0] for p in pairs], "positive": [p[1] for p in pairs]})
    options = json.loads(sys.argv[2])
    started, on_cpu = time.time(), time.process_time()
    mined = util.mine_hard_negatives(dataset, Known(vectors), corpus=[text for text, _ in rows], verbose=False, **options)
    seconds, on_cpu = time.time() - started, time.process_time() - on_cpu
    with open(FOLDER / "library.csv", "w", newline="") as file:
        csv.writer(file).writerows(zip(mined["anchor"], mined["positive"], mined["negative"]))
    (FOLDER / "seconds.csv").write_text(f"library,{seconds},{on_cpu}\n")


main()
