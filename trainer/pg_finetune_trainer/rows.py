"""Training rows: five shapes, one per file, told from the first row.

    {"anchor", "positive"}                                  pair
    {"anchor", "positive", "negative"}                      triplet
    {"anchor", "positive", "negatives": [...]}              tuple; cut to the shortest list of the file
    {"sentence1", "sentence2", "score"}                     scored pair, 0 to 1
    {"query", "relevant_passages", "hard_negatives"}        for rerankers; for embeddings it is flattened to tuples

Every row may carry "user" (text): validation then counts each user once. Other keys are errors: a file that was meant otherwise
must not be trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

SHAPES = {
    "pair": {"anchor": str, "positive": str},
    "triplet": {"anchor": str, "positive": str, "negative": str},
    "tuple": {"anchor": str, "positive": str, "negatives": list},
    "scored": {"sentence1": str, "sentence2": str, "score": float},
    "rerank": {"query": str, "relevant_passages": list, "hard_negatives": list},
}


class BadRow(ValueError):
    """Names the line, and says what it should hold."""

    def __init__(self, line: int, problem: str):
        super().__init__(f"line {line}: {problem}")


def read(path: Path, max_rows: int, max_row_bytes: int) -> Iterator[dict]:
    """Checked rows with their "user" (None without one). Raises BadRow at the first that is not as the first one promised."""
    shape = None
    with path.open("rb") as file:
        number = 0
        while line := file.readline(max_row_bytes + 1):
            number += 1
            if len(line) > max_row_bytes:
                raise BadRow(number, f"longer than {max_row_bytes} bytes")
            if number > max_rows:
                raise BadRow(number, f"more than {max_rows} rows")
            row = parse(number, line)
            shape = shape or shape_of(number, row)
            yield check(number, row, shape)
    if shape is None:
        raise BadRow(1, "the file is empty")


def parse(number: int, line: bytes) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRow(number, f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise BadRow(number, "not a JSON object")
    return row


def shape_of(number: int, row: dict) -> str:
    keys = row.keys() - {"user"}
    for shape, columns in SHAPES.items():
        if keys == columns.keys():
            return shape
    expected = "; ".join(", ".join(columns) for columns in SHAPES.values())
    raise BadRow(number, f"keys are {', '.join(sorted(keys)) or 'none'}; one of these is needed: {expected}")


def check(number: int, row: dict, shape: str) -> dict:
    columns = SHAPES[shape]
    if row.keys() - {"user"} != columns.keys():
        raise BadRow(number, f"the file's first row has other keys ({', '.join(columns)})")
    user = row.get("user")
    if user is not None and not isinstance(user, str):
        raise BadRow(number, '"user" must be text')
    for name, kind in columns.items():
        value = row[name]
        if kind is str and not (isinstance(value, str) and value.strip()):
            raise BadRow(number, f'"{name}" must be text that is not blank')
        if kind is list and not (isinstance(value, list) and value and all(isinstance(text, str) and text.strip() for text in value)):
            raise BadRow(number, f'"{name}" must be a list of texts that are not blank, at least one')
        if kind is float and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1):
            raise BadRow(number, f'"{name}" must be a number from 0 to 1')
    return {**row, "user": user, "shape": shape}


def validate(path: Path, max_rows: int, max_row_bytes: int) -> tuple[str, int]:
    """Shape and number of rows. Raises BadRow."""
    count, shape = 0, ""
    for row in read(path, max_rows, max_row_bytes):
        count, shape = count + 1, row["shape"]
    return shape, count


def tuples(rows: list[dict]) -> list[dict]:
    """Rows of the first three shapes and of `rerank` as {"anchor", "positive", "negatives", "user"}, lists cut to the shortest."""
    flat = []
    for row in rows:
        if row["shape"] == "rerank":
            for positive in row["relevant_passages"]:
                flat.append({"anchor": row["query"], "positive": positive, "negatives": row["hard_negatives"], "user": row["user"]})
        else:
            negatives = row.get("negatives") or ([row["negative"]] if "negative" in row else [])
            flat.append({"anchor": row["anchor"], "positive": row["positive"], "negatives": negatives, "user": row["user"]})
    shortest = min(len(row["negatives"]) for row in flat)
    return [{**row, "negatives": row["negatives"][:shortest]} for row in flat]


def labelled(rows: list[dict]) -> list[dict]:
    """The same rows as {"query", "document", "label", "user"} for a cross-encoder."""
    flat = []
    for row in rows:
        if row["shape"] == "scored":
            flat.append({"query": row["sentence1"], "document": row["sentence2"], "label": float(row["score"]), "user": row["user"]})
            continue
        query = row.get("query") or row.get("anchor")
        positives = row.get("relevant_passages") or [row["positive"]]
        negatives = row.get("hard_negatives") or row.get("negatives") or ([row["negative"]] if "negative" in row else [])
        for label, texts in ((1.0, positives), (0.0, negatives)):
            flat += [{"query": query, "document": text, "label": label, "user": row["user"]} for text in texts]
    return flat
