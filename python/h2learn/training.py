"""Training, deterministically: the weights are a function of the configuration and nothing else.

`Trainer` is Adam with cosine decay on the cross entropy of a model's scores. An epoch depends
only on the weights, the optimiser's state and (seed, epoch): the order of the samples and every
random number drawn during the epoch come from those two. So no random state travels from one
epoch to the next, and a run resumed from the checkpoint of any epoch ends in the same bits as
one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from h2learn import datasets, encoders, kernels, nn, recording
from h2learn.config import TrainConfig
from h2learn.counters import LayerCounts, count_operations
from h2learn.errors import InputError
from h2learn.models import load_model
from h2learn.spikes import SpikeTensor

OnStep = Callable[["Progress"], None]


class TrainingError(RuntimeError):
    """Training cannot go on: its numbers are no longer finite. The message is one line."""


@dataclass(frozen=True)
class Data:
    """The two parts of a data set, and the batches a network takes from them."""

    train: datasets.Dataset
    test: datasets.Dataset
    timesteps: int

    @classmethod
    def load(cls, config: TrainConfig) -> Data:
        """Reads both parts, whole, so that a bad file is found before any training.

        Raises:
            InputError: a file is missing or wrong.
        """
        parts = [
            datasets.load(config.dataset, config.root, train, config.timesteps)
            for train in (True, False)
        ]
        for part in parts:
            part.preload()
        return cls(parts[0], parts[1], config.timesteps)

    def batch(self, part: datasets.Dataset, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [T, B, C, H, W] and labels [B]: events packed, images repeated over T."""
        inputs, labels = part.batch(indices)
        if part.is_event:
            return SpikeTensor.from_dense(inputs), labels
        return encoders.direct(inputs, self.timesteps), labels


@dataclass
class Progress:
    """Running totals over the steps of one epoch."""

    epoch: int
    steps: int
    step: int = 0
    samples: int = 0
    correct: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    spikes: dict[str, int] = field(default_factory=dict)
    neuron_steps: dict[str, int] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Mean over the samples so far."""
        return self.loss_sum / max(1, self.samples)

    @property
    def accuracy(self) -> float:
        """Share of the samples so far that were classified rightly, while learning."""
        return self.correct / max(1, self.samples)

    @property
    def samples_per_second(self) -> float:
        """Training speed, evaluation not included."""
        return self.samples / max(self.seconds, 1e-9)

    @property
    def firing_rates(self) -> dict[str, float]:
        """Spikes per neuron and timestep, by layer."""
        return {name: self.spikes[name] / max(1, n) for name, n in self.neuron_steps.items()}


@dataclass(frozen=True)
class Evaluation:
    """A model's performance on one part of a data set."""

    loss: float
    accuracy: float
    samples: int
    seconds: float


class _SpikeCounter:
    """Listens to the neurons of a model and adds their spikes up in a `Progress`."""

    def __init__(self, model: torch.nn.Module, progress: Progress) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self._progress = progress

    def record(self, event: recording.Event) -> None:
        if isinstance(event, recording.SomaForward) and event.owner in self._names:
            name = self._names[event.owner]
            spikes, steps = self._progress.spikes, self._progress.neuron_steps
            spikes[name] = spikes.get(name, 0) + event.spikes.count()
            steps[name] = steps.get(name, 0) + event.spikes.numel()


def build_model(config: TrainConfig, data: Data) -> torch.nn.Module:
    """The configured model with its first weights, which depend on the seed alone.

    Two samples are passed through it, so that a model that does not fit the data says so here.

    Raises:
        InputError: the model does not exist or does not fit the data.
    """
    _seed_everything(config.seed, 0)
    classes = len(data.train.classes)
    model = load_model(config.model, data.train.sample_shape, classes)
    kernels.set_kernel(model, config.kernel)
    inputs, _ = data.batch(data.train, torch.arange(min(2, len(data.train))))
    model.eval()
    nn.reset(model)
    try:
        with torch.no_grad():
            scores = model(inputs)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"model {config.model} does not take inputs {list(inputs.shape)} "
            f"([timesteps, batch, channels, height, width]): {' '.join(str(error).split())}"
        ) from error
    wanted = [inputs.shape[1], classes]
    if not isinstance(scores, Tensor) or list(scores.shape) != wanted:
        found = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError(
            f"model {config.model} must return scores [batch, classes], {wanted} for a batch of "
            f"{wanted[0]}; it returns {found}"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"model {config.model} has no parameter to train")
    return model


class Trainer:
    """A model, its data and its optimiser; knows nothing of files or screens.

    Args:
        model: as `build_model` made it, its weights untouched.

    Attributes:
        epoch: epochs finished.
        model_hash: of the model's description: its modules, their options, and the names, types
            and shapes of their state. Taken before training, because a description may show
            values that are learned (a neuron's decay).
        optimizer: Adam over the parameters that require a gradient.
        steps_per_epoch: batches, the last one perhaps smaller.
        table_batch: samples of the step that `count_layers` counts.
    """

    def __init__(self, model: torch.nn.Module, data: Data, config: TrainConfig) -> None:
        self.model = model
        self.data = data
        self.config = config
        self.epoch = 0
        self.model_hash = _describe(model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=config.lr)
        self.steps_per_epoch = math.ceil(len(data.train) / config.batch_size)
        self.table_batch = min(config.batch_size, len(data.train))

    def train_epoch(self, on_step: OnStep | None = None) -> Progress:
        """Trains the next epoch; `on_step` is called after each step with the totals so far.

        Raises:
            TrainingError: the loss or the weights are no longer finite.
        """
        progress = Progress(self.epoch + 1, self.steps_per_epoch)
        _seed_everything(self.config.seed, progress.epoch)
        order = torch.randperm(len(self.data.train))
        self.model.train()
        with recording.listen(_SpikeCounter(self.model, progress)):
            for indices in order.split(self.config.batch_size):
                started = time.perf_counter()
                self._step(indices, progress)
                progress.seconds += time.perf_counter() - started
                if on_step is not None:
                    on_step(progress)
        if not self._is_finite():
            raise self._diverged("the weights are no longer finite", progress)
        self.epoch += 1
        return progress

    def _step(self, indices: Tensor, progress: Progress) -> None:
        inputs, labels = self.data.batch(self.data.train, indices)
        self._set_learning_rate(self.epoch * self.steps_per_epoch + progress.step)
        scores, loss = self._learn(inputs, labels, progress)
        self.optimizer.step()
        progress.step += 1
        progress.samples += len(labels)
        progress.correct += int((scores.argmax(1) == labels).sum())
        progress.loss_sum += loss * len(labels)

    def _learn(self, inputs: Tensor, labels: Tensor, progress: Progress) -> tuple[Tensor, float]:
        """Forward and backward; scores and loss, gradients in the parameters."""
        try:
            scores, loss = forward_backward(self.model, inputs, labels)
        except ValueError as error:
            # The core refuses weights that are not finite; say what made them so.
            if self._is_finite():
                raise
            raise self._diverged("the weights are no longer finite", progress) from error
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}", progress)
        return scores, loss

    def _is_finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.model.parameters())

    def _diverged(self, what: str, progress: Progress) -> TrainingError:
        return TrainingError(
            f"training diverged: {what} in epoch {progress.epoch} after {progress.step} of "
            f"{progress.steps} steps; try a learning rate below {self.config.lr:g} (--lr)"
        )

    def _set_learning_rate(self, step: int) -> None:
        """Cosine decay from `lr` at the first step of the run to zero after the last."""
        total = self.config.epochs * self.steps_per_epoch
        rate = self.config.lr * 0.5 * (1.0 + math.cos(math.pi * step / total))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def evaluate(self) -> Evaluation:
        """Loss and accuracy on the test part; changes nothing.

        Raises:
            TrainingError: the loss is not finite.
        """
        evaluation = evaluate(self.model, self.data, self.config.batch_size)
        if not math.isfinite(evaluation.loss):
            raise TrainingError(f"the test loss is {evaluation.loss} after epoch {self.epoch}")
        return evaluation

    def count_layers(self) -> dict[str, LayerCounts]:
        """Operations of one training step, by layer, counted on the first training samples.

        Gradients are left in the parameters and running statistics move: call it last.
        """
        inputs, labels = self.data.batch(self.data.train, torch.arange(self.table_batch))
        self.model.train()
        with count_operations(self.model) as counter:
            forward_backward(self.model, inputs, labels)
        return counter.layers


def forward_backward(
    model: torch.nn.Module, inputs: Tensor, labels: Tensor
) -> tuple[Tensor, float]:
    """One pass each way; returns scores [B, classes] and the mean cross entropy."""
    nn.reset(model)  # stateful neurons too: their state is in no checkpoint
    model.zero_grad()
    scores = model(inputs)
    loss = F.cross_entropy(scores, labels)
    loss.backward()
    return scores.detach(), loss.item()


def evaluate(model: torch.nn.Module, data: Data, batch_size: int) -> Evaluation:
    """Loss and accuracy on the test part of `data`, in evaluation mode, without gradients."""
    started = time.perf_counter()
    model.eval()
    correct = 0
    loss_sum = 0.0
    with torch.no_grad():
        for indices in torch.arange(len(data.test)).split(batch_size):
            inputs, labels = data.batch(data.test, indices)
            nn.reset(model)
            scores = model(inputs)
            loss_sum += F.cross_entropy(scores, labels, reduction="sum").item()
            correct += int((scores.argmax(1) == labels).sum())
    samples = len(data.test)
    return Evaluation(loss_sum / samples, correct / samples, samples, time.perf_counter() - started)


def _describe(model: torch.nn.Module) -> str:
    state = [(name, str(t.dtype), tuple(t.shape)) for name, t in model.state_dict().items()]
    # The address in "<function f at 0x7f...>" is another in every process.
    text = re.sub(r" at 0x[0-9a-f]+", "", f"{model!r}\n{state!r}")
    return hashlib.sha256(text.encode()).hexdigest()


def _seed_everything(seed: int, epoch: int) -> None:
    """Makes every random number of the epoch a function of (seed, epoch).

    Python's and NumPy's generators too: a model of the user's own may draw from them.
    """
    words = np.random.SeedSequence((seed, epoch)).generate_state(2, np.uint32).tolist()
    torch.manual_seed(words[0] << 32 | words[1])
    np.random.seed(words[0])  # noqa: NPY002 - the global generator is the point
    random.seed(words[1])
