"""The configuration of a training run, and the defaults of `h2learn train`.

`TrainConfig` holds every choice that decides the weights; a run directory stores it. `DEFAULTS`
is the one table of the values taken where the user names none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from h2learn.datasets import NAMES
from h2learn.errors import InputError
from h2learn.kernels import KERNELS


@dataclass(frozen=True)
class Defaults:
    """What `h2learn train` uses for a data set and a model where the user names no value."""

    timesteps: int
    epochs: int
    batch_size: int
    lr: float


# The first model of a data set is its default; its row also serves models that have none.
DEFAULTS: dict[str, dict[str, Defaults]] = {
    "digits": {
        "mlp": Defaults(timesteps=8, epochs=30, batch_size=64, lr=1e-2),
    },
    "mnist": {
        "mlp": Defaults(timesteps=8, epochs=15, batch_size=64, lr=3e-3),
        "lenet": Defaults(timesteps=4, epochs=10, batch_size=64, lr=5e-3),
    },
    "nmnist": {
        "lenet": Defaults(timesteps=10, epochs=20, batch_size=16, lr=3e-3),
        "mlp": Defaults(timesteps=10, epochs=20, batch_size=16, lr=1e-3),
    },
    "cifar10": {
        "lenet": Defaults(timesteps=4, epochs=20, batch_size=64, lr=3e-3),
        "cifar10net": Defaults(timesteps=8, epochs=30, batch_size=32, lr=1e-3),
    },
}


_NEW_DATASET = {"mlp": Defaults(timesteps=8, epochs=20, batch_size=64, lr=1e-3)}


def default_model(dataset: str) -> str:
    """The model that a data set is trained with unless the user names one."""
    return next(iter(DEFAULTS.get(dataset, _NEW_DATASET)))


def defaults(dataset: str, model: str) -> Defaults:
    """The row of `DEFAULTS` for a data set and a model, whether or not it has one of its own."""
    rows = DEFAULTS.get(dataset, _NEW_DATASET)
    return rows.get(model, rows[default_model(dataset)])


class TrainConfig(BaseModel):
    """Every choice that decides the weights. Fields are the options of `h2learn train`.

    `root` and `model` are names, not content: data may move, and a model of the user's own code
    is recognised by the description of it that a checkpoint carries. `accelerator` decides no
    weight; it is kept so that a resumed run goes on being simulated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dataset: str
    root: str | None
    model: Annotated[str, Field(min_length=1, max_length=4096)]
    timesteps: Annotated[int, Field(ge=1, le=1024)]
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    lr: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    kernel: str
    accelerator: Annotated[str, Field(min_length=1, max_length=4096)]

    @field_validator("dataset", "kernel")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        names = NAMES if info.field_name == "dataset" else KERNELS
        if name not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return name

    @classmethod
    def checked(cls, values: Mapping[str, Any], prefix: str = "--") -> TrainConfig:
        """Builds a configuration from outside values; `prefix` stands before a field's name.

        Raises:
            InputError: one line naming the first wrong field, its value and what is allowed.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise InputError(_explain(error, prefix)) from None

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> TrainConfig:
        """Fills what the user left out (absent, or None) from `DEFAULTS`.

        Raises:
            InputError: as `checked`.
        """
        given = {name: value for name, value in options.items() if value is not None}
        dataset = given.setdefault("dataset", "digits")
        model = given.setdefault("model", default_model(dataset))
        base = {"root": None, "seed": 0, "kernel": "auto", "accelerator": "none"}
        return cls.checked(base | asdict(defaults(dataset, model)) | given)


def _explain(error: ValidationError, prefix: str) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if prefix == "--":
        name = name.replace("_", "-")
    what = re.sub("^(Input|String) should", "must", first["msg"].removeprefix("Value error, "))
    value = first["input"]
    shown = f", got {value!r}" if isinstance(value, (str, int, float)) else ""
    return f"{prefix}{name} {what[0].lower()}{what[1:]}{shown}"
