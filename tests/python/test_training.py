"""The trainer: what an epoch is, that it is repeatable, and that it learns."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
from h2learn import nn
from h2learn.config import DEFAULTS, TrainConfig, default_model, defaults
from h2learn.datasets import NAMES
from h2learn.errors import InputError
from h2learn.kernels import KERNELS
from h2learn.training import Data, Trainer, TrainingError, build_model
from small_datasets import write_cifar_binary, write_mnist, write_nmnist


def make_config(**options):
    small = {"timesteps": 2, "epochs": 2, "batch_size": 256}
    return TrainConfig.from_options(small | options)


def make_trainer(network=None, **options):
    """A trainer of a module, or of the model that the options name."""
    config = make_config(**options)
    data = Data.load(config)
    return Trainer(build_model(config, data) if network is None else network, data, config)


def weights(trainer):
    return {name: t.clone() for name, t in trainer.model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def noisy_model():
    """Random numbers of every source, and running statistics."""

    class Noise(torch.nn.Module):
        def forward(self, x):
            factor = random.uniform(0.9, 1.1) * np.random.uniform(0.9, 1.1)  # noqa: NPY002, S311
            return x * factor if self.training else x

    torch.manual_seed(1)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm(32), nn.LIF(), nn.Dropout(0.2), Noise(),
        nn.Linear(32, 10), nn.Readout(decay=0.0),
    )  # fmt: skip


def test_training_learns_and_reports_what_happened():
    trainer = make_trainer(timesteps=4, epochs=4, batch_size=64)
    before = trainer.evaluate()
    epochs = [trainer.train_epoch() for _ in range(4)]
    after = trainer.evaluate()
    assert before.accuracy < 0.3
    assert after.accuracy > 0.92
    assert after.loss < before.loss
    assert [e.epoch for e in epochs] == [1, 2, 3, 4]
    assert epochs[-1].loss < epochs[0].loss
    last = epochs[-1]
    assert (last.step, last.samples) == (23, 1438)
    assert last.neuron_steps == {"lif1": 1438 * 4 * 256}
    assert 0.0 < last.firing_rates["lif1"] < 0.9
    assert last.samples_per_second == last.samples / last.seconds


def test_an_epoch_takes_each_sample_once_in_an_order_of_its_own(monkeypatch):
    trainer = make_trainer()
    seen: list[torch.Tensor] = []
    batch = trainer.data.batch

    def watched(part, indices):
        seen.append(indices)
        return batch(part, indices)

    monkeypatch.setattr(Data, "batch", lambda _self, part, indices: watched(part, indices))
    orders = []
    for _ in range(2):
        seen.clear()
        trainer.train_epoch()
        assert [len(i) for i in seen] == [256] * 5 + [1438 - 5 * 256]
        orders.append(torch.cat(seen))
        assert torch.equal(orders[-1].sort().values, torch.arange(1438))
    assert not torch.equal(*orders)


def test_the_learning_rate_falls_as_half_a_cosine_to_zero():
    trainer = make_trainer(lr=0.5e-3)
    rates = []
    for _ in range(2):
        trainer.train_epoch(lambda _: rates.append(trainer.optimizer.param_groups[0]["lr"]))
    assert rates == [0.25e-3 * (1 + math.cos(math.pi * k / 12)) for k in range(12)]
    assert rates[0] == 0.5e-3


# torch's batch normalisation, in the noisy model, adds in an order that threads decide.
@pytest.mark.parametrize(("make", "other_threads"), [(None, 2), (noisy_model, 1)])
def test_the_same_configuration_gives_the_same_bits_and_another_seed_others(make, other_threads):
    def train(seed, threads):
        torch.set_num_threads(threads)
        torch.rand(threads)  # what was drawn before training does not matter
        trainer = make_trainer(make() if make else None, seed=seed)
        for _ in range(2):
            trainer.train_epoch()
            torch.rand(1)
        return weights(trainer)

    first = train(seed=3, threads=1)
    assert same(first, train(seed=3, threads=other_threads))
    assert not same(first, train(seed=4, threads=1))


def test_evaluation_changes_nothing():
    trainer = make_trainer(noisy_model())
    trainer.train_epoch()
    before, state = weights(trainer), copy.deepcopy(trainer.optimizer.state_dict())
    first, second = trainer.evaluate(), trainer.evaluate()
    assert (first.loss, first.accuracy) == (second.loss, second.accuracy)
    assert same(before, weights(trainer))
    for index, kept in trainer.optimizer.state_dict()["state"].items():
        assert same(kept, state["state"][index])


def test_evaluation_weighs_every_sample_alike_whatever_the_batch():
    small, large = make_trainer(batch_size=100), make_trainer(batch_size=1000)
    left, right = small.evaluate(), large.evaluate()
    assert left.samples == right.samples == 359
    assert left.accuracy == right.accuracy
    assert left.loss == pytest.approx(right.loss, rel=1e-6)


def test_stateful_neurons_start_each_batch_afresh():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.LIF(decay=0.9, stateful=True), nn.Linear(16, 10),
        nn.Readout(),
    )  # fmt: skip
    trainer = make_trainer(model)
    trainer.train_epoch()  # the last batch is smaller: a kept membrane would not fit it
    first = trainer.evaluate()
    assert first.loss == trainer.evaluate().loss


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_weights_that_are_not_finite_end_training_with_advice(poison):
    trainer = make_trainer()
    before = trainer.epoch

    def ruin(progress):
        if progress.step == 3:
            with torch.no_grad():
                trainer.model.fc2.weight[0, 0] = poison

    with pytest.raises(TrainingError, match=r"in epoch 1 after 3 of 6 steps; try a learning rate"):
        trainer.train_epoch(ruin)
    assert trainer.epoch == before


def test_weights_ruined_by_the_last_step_are_noticed():
    trainer = make_trainer()

    def ruin(progress):
        if progress.step == progress.steps:
            with torch.no_grad():
                trainer.model.fc2.bias[0] = math.nan

    with pytest.raises(TrainingError, match="no longer finite in epoch 1 after 6 of 6 steps"):
        trainer.train_epoch(ruin)


def test_a_loss_that_is_not_finite_is_an_error_although_weights_are():
    class Overflow(torch.nn.Module):
        def forward(self, x):
            return x / 0.0

    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Readout(), Overflow())
    trainer = make_trainer(model)
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1"):
        trainer.train_epoch()
    with pytest.raises(TrainingError, match="the test loss is nan"):
        trainer.evaluate()


def test_counting_layers_sees_one_step():
    trainer = make_trainer(batch_size=32)
    layers = trainer.count_layers()
    assert trainer.table_batch == 32
    assert layers["lif1"].neuron_steps == 2 * 32 * 256
    assert layers["fc1"].forward_offered == 2 * 32 * 64 * 256
    assert make_trainer(batch_size=60_000).table_batch == 1438


@pytest.mark.filterwarnings("ignore:.*is dead")  # there are hardly any events
@pytest.mark.parametrize(
    ("name", "write", "model"),
    [
        ("mnist", write_mnist, "mlp"),
        ("nmnist", write_nmnist, "lenet"),
        ("cifar10", write_cifar_binary, "lenet"),
    ],
)
def test_every_dataset_trains(tmp_path, name, write, model):
    trainer = make_trainer(dataset=name, root=str(write(tmp_path)), model=model, batch_size=3)
    progress = trainer.train_epoch()
    assert math.isfinite(progress.loss)
    assert progress.samples == len(trainer.data.train)
    inputs, labels = trainer.data.batch(trainer.data.test, torch.arange(2))
    assert inputs.shape == (2, 2, *trainer.data.test.sample_shape)
    assert labels.shape == (2,)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("torch.nn.Linear(3, c)", r"does not take inputs \[2, 2, 1, 8, 8\]"),
        ("torch.nn.Flatten(2)", r"must return scores .* \[2, 10\] for a batch of 2; it returns"),
        ("torch.nn.Sequential()", r"must return scores .* it returns \[2, 2, 1, 8, 8\]"),
        ("nn.Sequential(nn.Flatten(), P(), nn.Readout())", "has no parameter to train"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_training(tmp_path, body, message):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom h2learn import nn\n"
        "class P(torch.nn.Module):\n"
        "    def forward(self, x): return x[..., :10]\n"
        f"def build(s, c): return {body}\n"
    )
    config = make_config(model=f"{file}:build")
    with pytest.raises(InputError, match=message):
        build_model(config, Data.load(config))


def test_defaults_exist_for_every_dataset_and_are_what_the_user_left_out():
    for name in NAMES:
        for model in (default_model(name), "own.py:f"):
            row = defaults(name, model)
            config = TrainConfig.from_options({"dataset": name, "model": model, "lr": 0.5})
            assert (config.timesteps, config.epochs) == (row.timesteps, row.epochs)
            assert (config.batch_size, config.lr) == (row.batch_size, 0.5)
    assert set(DEFAULTS) == set(NAMES)
    assert TrainConfig.from_options({}).model_dump() == {
        "dataset": "digits", "root": None, "model": "mlp", "seed": 0, "kernel": "auto",
        "accelerator": "none", **vars(DEFAULTS["digits"]["mlp"]),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("dataset", "svhn", r"--dataset must be one of digits, mnist, .* got 'svhn'"),
        ("timesteps", 0, r"--timesteps must be greater than or equal to 1, got 0"),
        ("timesteps", 1025, r"--timesteps must be less than or equal to 1024, got 1025"),
        ("epochs", 0, "--epochs must be greater than or equal to 1, got 0"),
        ("batch_size", -1, "--batch-size must be .* 1, got -1"),
        ("lr", 0.0, "--lr must be greater than 0, got 0.0"),
        ("lr", math.nan, "--lr must be a finite number, got nan"),
        ("lr", math.inf, "--lr must be .*, got inf"),
        ("seed", -1, "--seed must be greater than or equal to 0, got -1"),
        ("seed", 2**63, "--seed must be less than"),
        ("kernel", "fast", f"--kernel must be one of {', '.join(KERNELS)}, got 'fast'"),
        ("accelerator", "", "--accelerator must have at least 1 character"),
        ("model", "", "--model must have at least 1 character"),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_what_is_allowed(option, value, message):
    with pytest.raises(InputError, match=message) as caught:
        TrainConfig.from_options({option: value})
    assert "\n" not in str(caught.value)
