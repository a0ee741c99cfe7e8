"""What clients may send, checked field by field. The protocol's fields only; the trainer's own knobs travel in `metadata`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, StringConstraints

Auto = Literal["auto"]
Text = Annotated[StrictStr, StringConstraints(max_length=100_000)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Hyperparameters(Strict):
    n_epochs: Annotated[StrictInt, Field(ge=1, le=50)] | Auto = "auto"
    batch_size: Annotated[StrictInt, Field(ge=1, le=256)] | Auto = "auto"
    learning_rate_multiplier: Annotated[Number, Field(gt=0)] | Auto = "auto"


class Supervised(Strict):
    hyperparameters: Hyperparameters = Hyperparameters()


class Method(BaseModel):
    """Of other types only the name is looked at, to refuse it by name."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised = Supervised()


class CreateJob(Strict):
    model: StrictStr
    training_file: StrictStr
    validation_file: StrictStr | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    suffix: Annotated[StrictStr, StringConstraints(min_length=1, max_length=64)] | None = None
    seed: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)] | None = None
    metadata: (
        Annotated[
            dict[Annotated[StrictStr, StringConstraints(max_length=64)], Annotated[StrictStr, StringConstraints(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None
    integrations: None = None


class Knobs(BaseModel):
    """The trainer's own parameters: metadata keys that begin with pgft_, values are text."""

    model_config = ConfigDict(extra="ignore")
    pgft_task: Literal["embedding", "rerank"] = "embedding"
    pgft_loss: Literal["auto", "softmax", "mnrl", "cached_mnrl", "triplet", "cosent", "contrastive"] = "auto"
    pgft_temperature: Annotated[float, Field(gt=0, le=1)] = 0.05
    pgft_max_seq_length: Annotated[int, Field(ge=8, le=8192)] | None = None
    pgft_warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    pgft_matryoshka: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,4}(,[1-9][0-9]{0,4}){0,9}$")] | None = None
    pgft_lora_r: Annotated[int, Field(ge=1, le=256)] | None = None


class CreateEmbedding(Strict):
    model: StrictStr
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = None
    user: StrictStr | None = None


class Rerank(Strict):
    model: StrictStr
    query: Text
    documents: Annotated[list[Text], Field(min_length=1, max_length=1000)]
    top_n: Annotated[StrictInt, Field(ge=1)] | None = None
    return_documents: StrictBool = False
