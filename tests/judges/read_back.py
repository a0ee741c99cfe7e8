"""Reads exported lines with the receivers' own code: read_back.py FOLDER, with one FORMAT.jsonl for every format."""

import json
import pathlib
import sys

import botocore.loaders
import botocore.model
import botocore.validate
import datasets
import pydantic
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionUserMessageParam,
)
from together.lib.utils.files import check_file

FOLDER = pathlib.Path(sys.argv[1])
ROLES = {
    "system": pydantic.TypeAdapter(ChatCompletionSystemMessageParam),
    "user": pydantic.TypeAdapter(ChatCompletionUserMessageParam),
    "assistant": pydantic.TypeAdapter(ChatCompletionAssistantMessageParam),
}


def rows(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").split("\n") if line]


def openai_messages(messages):
    for message in messages:
        ROLES[message["role"]].validate_python(message)


def bedrock(rows):
    """The conversation schema is that of the Converse API, whose model botocore carries."""
    service = botocore.model.ServiceModel(botocore.loaders.Loader().load_service_model("bedrock-runtime", "service-2"))
    shape, validator = service.operation_model("Converse").input_shape, botocore.validate.ParamValidator()
    for row in rows:
        assert row.pop("schemaVersion") == "bedrock-conversation-2024"
        report = validator.validate({"modelId": "any", **row}, shape)
        assert not report.has_errors(), report.generate_report()
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"]


def hugging_face(name, columns, path=None):
    """What sentence-transformers trains on; the order of the columns is their meaning."""
    loaded = datasets.load_dataset("json", data_files=str(path or FOLDER / f"{name}.jsonl"), split="train", cache_dir=str(FOLDER / "cache"))
    assert loaded.column_names == columns, loaded.column_names
    assert loaded.to_list() == rows(name), name
    return len(loaded)


def main():
    for row in rows("openai_chat"):
        openai_messages(row["messages"])
    for row in rows("openai_dpo"):
        openai_messages(row["input"]["messages"])
        openai_messages(row["preferred_output"])
        openai_messages(row["non_preferred_output"])
    for name in ("openai_chat", "openai_dpo"):
        report = check_file(FOLDER / f"{name}.jsonl")
        assert report["is_check_passed"], report
    bedrock(rows("bedrock_converse"))
    for row in rows("anthropic"):
        assert set(row) == {"system", "messages"} and [m["role"] for m in row["messages"]] == ["user", "assistant"]
        openai_messages(row["messages"])
    for row in rows("cohere_rerank"):
        assert set(row) == {"query", "relevant_passages", "hard_negatives"}
        assert row["relevant_passages"] and not set(row["relevant_passages"]) & set(row["hard_negatives"])
    hugging_face("triplet", ["anchor", "positive", "negative"])
    hugging_face("pair", ["anchor", "positive"])
    hugging_face("cohere_rerank", ["query", "relevant_passages", "hard_negatives"])
    print("read back", sum(len(rows(f.stem)) for f in FOLDER.glob("*.jsonl")), "lines")


main()
