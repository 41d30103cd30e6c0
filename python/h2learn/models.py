"""Models by name: three networks from the literature, and your own from `file.py:factory`.

A factory takes the shape of one sample of one timestep, without the batch (`(64,)`,
`(1, 28, 28)`, `(2, 34, 34)`), and the number of classes, and returns a `torch.nn.Module` from
`[T, B, *sample_shape]` to class scores `[B, classes]`. The three here also take every option of
`h2learn.nn.LIF` by keyword. Their layers are named (`conv1`, `lif1`, `fc1`, ...): checkpoints,
metrics and tables speak of a layer by that name.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from h2learn import nn
from h2learn.errors import InputError

Factory = Callable[[Sequence[int], int], torch.nn.Module]


def mlp(
    sample_shape: Sequence[int], classes: int, *, hidden: int | None = None, **neuron: Any
) -> torch.nn.Sequential:
    """inputs-hidden-classes: one hidden layer of LIF neurons, and a readout that does not spike.

    Args:
        sample_shape: shape of a sample at one timestep; any rank, it is flattened.
        classes: number of outputs.
        hidden: neurons in the hidden layer; by default 256 for up to 256 inputs (the digits'
            64-256-10), else 512 (MNIST's 784-512-10).
        neuron: options of `h2learn.nn.LIF`.
    """
    inputs = prod(sample_shape)
    if hidden is None:
        hidden = 256 if inputs <= 256 else 512
    layers: dict[str, torch.nn.Module] = {}
    if len(sample_shape) > 1:
        layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(inputs, hidden)
    layers["lif1"] = nn.LIF(**neuron)
    layers["fc2"] = nn.Linear(hidden, classes)
    return _with_readout(layers)


def lenet(sample_shape: Sequence[int], classes: int, **neuron: Any) -> torch.nn.Sequential:
    """16C5-AP2-32C5-AP2-classes: two convolutions, each with LIF neurons and average pooling.

    Raises:
        InputError: `sample_shape` is not [channels, height, width] of at least 16 x 16.
    """
    channels, height, width = _image_shape("lenet", sample_shape, smallest=16)
    height, width = [((side - 4) // 2 - 4) // 2 for side in (height, width)]
    layers: dict[str, torch.nn.Module] = {
        "conv1": nn.Conv2d(channels, 16, 5),
        "lif1": nn.LIF(**neuron),
        "pool1": nn.AvgPool2d(2),
        "conv2": nn.Conv2d(16, 32, 5),
        "lif2": nn.LIF(**neuron),
        "pool2": nn.AvgPool2d(2),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(32 * height * width, classes),
    }
    return _with_readout(layers)


def cifar10net(
    sample_shape: Sequence[int], classes: int, *, batch_norm: bool = True, **neuron: Any
) -> torch.nn.Sequential:
    """128C3-256C3-AP2-512C3-AP2-1024C3-512C3-1024-512-classes, the STBP papers' CIFAR10Net.

    Convolutions are padded by 1. With `batch_norm` (the default; without it the deep layers
    fall silent unless calibrated) each is followed by a `BatchNorm` and has no bias.

    Raises:
        InputError: `sample_shape` is not [channels, height, width] of at least 4 x 4.
    """
    channels, height, width = _image_shape("cifar10net", sample_shape, smallest=4)
    layers: dict[str, torch.nn.Module] = {}
    for index, outputs in enumerate((128, 256, 512, 1024, 512), start=1):
        layers[f"conv{index}"] = nn.Conv2d(channels, outputs, 3, padding=1, bias=not batch_norm)
        if batch_norm:
            layers[f"norm{index}"] = nn.BatchNorm(outputs)
        layers[f"lif{index}"] = nn.LIF(**neuron)
        if index in (2, 3):
            layers[f"pool{index}"] = nn.AvgPool2d(2)
            height, width = height // 2, width // 2
        channels = outputs
    layers["flatten"] = nn.Flatten()
    features = channels * height * width
    for index, outputs in enumerate((1024, 512), start=1):
        layers[f"fc{index}"] = nn.Linear(features, outputs)
        layers[f"lif{index + 5}"] = nn.LIF(**neuron)
        features = outputs
    layers["fc3"] = nn.Linear(features, classes)
    return _with_readout(layers)


MODELS: dict[str, Factory] = {"mlp": mlp, "lenet": lenet, "cifar10net": cifar10net}
"""Factories by the name that `--model` takes."""


def check_name(name: str) -> str:
    """Returns `name` if it is in `MODELS`, or is `file.py:factory` and the file exists.

    Raises:
        InputError: it is neither. Nothing is imported.
    """
    if name not in MODELS:
        file, _ = _split(name)
        if not file.is_file():
            raise InputError(f"--model {name}: there is no file {str(file)!r}")
    return name


def load_model(name: str, sample_shape: Sequence[int], classes: int) -> torch.nn.Module:
    """Builds a model by name, or by calling the factory of `file.py:factory`.

    The file is imported: name only code that you trust.

    Args:
        name: a key of `MODELS`, or a path, a colon and the name of a factory in that file.
        sample_shape: shape of a sample at one timestep.
        classes: number of outputs.

    Raises:
        InputError: no such model, file or factory; the file cannot be imported; the factory
            fails, or returns something other than a `torch.nn.Module`; the shape does not fit.
    """
    if name in MODELS:
        return MODELS[name](sample_shape, classes)
    factory = _load_factory(name)
    try:
        model = factory(tuple(sample_shape), classes)
    except Exception as error:
        raise InputError(
            f"--model {name}: factory({tuple(sample_shape)}, {classes}) failed with "
            f"{_one_line(error)}"
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"--model {name}: the factory must return a torch.nn.Module, got {type(model).__name__}"
        )
    return model


def _load_factory(name: str) -> Factory:
    check_name(name)
    path, attribute = _split(name)
    module = _import_file(path, name)
    if not hasattr(module, attribute):
        found = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        has = f"its functions are {', '.join(found)}" if found else "it defines no function"
        raise InputError(f"--model {name}: {path} has no {attribute!r}; {has}")
    factory: Factory = getattr(module, attribute)
    if not callable(factory):
        raise InputError(
            f"--model {name}: {attribute!r} must be a function (sample_shape, classes) -> "
            f"torch.nn.Module, got {type(factory).__name__}"
        )
    return factory


def _split(name: str) -> tuple[Path, str]:
    file, colon, attribute = name.rpartition(":")
    if not colon or not file.endswith(".py") or not attribute.isidentifier():
        known = ", ".join(MODELS)
        raise InputError(f"--model must be one of {known}, or file.py:factory; got {name!r}")
    return Path(file), attribute


def _import_file(path: Path, name: str) -> ModuleType:
    # The stem alone could be the name of an installed package.
    module_name = f"h2learn_user_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"--model {name}: {path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickling look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise InputError(f"--model {name}: importing it failed: {_one_line(error)}") from error
    return module


def _with_readout(layers: dict[str, torch.nn.Module]) -> torch.nn.Sequential:
    """Class scores are the mean over T of the last layer's currents."""
    layers["readout"] = nn.Readout(mode="membrane", decay=0.0)
    return nn.Sequential(OrderedDict(layers))


def _image_shape(model: str, shape: Sequence[int], smallest: int) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape[1:]) < smallest:
        raise InputError(
            f"model {model} needs samples of shape [channels, height, width], at least "
            f"{smallest} x {smallest}; these are {list(shape)}"
        )
    channels, height, width = shape
    return channels, height, width


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
