"""Run directories: whole or absent, resumed bit for bit, and never believed."""

from __future__ import annotations

import json
import os

import pytest
import torch
from h2learn import files, nn, training
from h2learn.checkpoint import read_checkpoint, write_checkpoint
from h2learn.errors import InputError
from h2learn.files import append_line, check_creatable, read_file, replace_file
from h2learn.runs import CHECKPOINT, CONFIG, METRICS, Run, check_free
from safetensors import safe_open
from safetensors.torch import save_file
from test_training import make_trainer, noisy_model, same, weights


def metrics(epoch):
    numbers = dict.fromkeys(("loss", "train_accuracy", "test_loss", "test_accuracy"), 0.5)
    return {"epoch": epoch, "seconds": 0.25, **numbers}


def adam_state(trainer):
    state = trainer.optimizer.state_dict()["state"]
    return {f"{i}.{key}": t.clone() for i, kept in state.items() for key, t in kept.items()}


def contents(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


def rewrite(path, change_tensors=None, change_metadata=None):
    """A checkpoint with something else in it, still a valid safetensors file."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    (change_tensors or (lambda _: None))(tensors)
    metadata.update(change_metadata or {})
    save_file(tensors, path, metadata)


@pytest.fixture
def run(tmp_path):
    """A run of two epochs, one of them trained."""
    trainer = make_trainer()
    run = Run.create(tmp_path / "run", trainer)
    trainer.train_epoch()
    run.save_epoch(trainer, metrics(1))
    return run


class TestResume:
    @pytest.mark.parametrize("make", [None, noisy_model])
    @pytest.mark.parametrize("broken_after", [0, 1, 2])
    def test_a_resumed_run_ends_in_the_bits_of_an_unbroken_one(self, tmp_path, make, broken_after):
        def fresh():
            return make_trainer(make() if make else None, epochs=3)

        unbroken = fresh()
        run = Run.create(tmp_path / "run", unbroken)
        for epoch in range(1, 4):
            unbroken.train_epoch()
            if epoch <= broken_after:
                run.save_epoch(unbroken, metrics(epoch))

        resumed = fresh()
        Run.open(tmp_path / "run").restore(resumed)
        assert resumed.epoch == broken_after
        while resumed.epoch < 3:
            resumed.train_epoch()
        assert same(weights(unbroken), weights(resumed))
        assert same(adam_state(unbroken), adam_state(resumed))

    def test_parameters_that_are_frozen_shared_or_unused_come_back(self, tmp_path):
        def build():
            torch.manual_seed(2)
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 10), nn.Readout())
            model[2].bias.requires_grad_(False)
            model.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))
            model.again = model[1]  # a second name of one tensor
            model.again.register_forward_hook(lambda *_: None)
            return model

        class Tied(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.body = build()

            def forward(self, x):
                return self.body[:4](x)

        first, second = make_trainer(Tied()), make_trainer(Tied())
        first.train_epoch()
        write_checkpoint(tmp_path / CHECKPOINT, first)
        read_checkpoint(tmp_path / CHECKPOINT, second)
        assert same(weights(first), weights(second))
        assert same(adam_state(first), adam_state(second))

    def test_metrics_of_epochs_after_the_checkpoint_are_cut(self, run):
        append_line(run.path / METRICS, json.dumps(metrics(2)))
        with (run.path / METRICS).open("a") as file:
            file.write('{"epoch": 3, "lo')  # torn by a kill
        run.cut_metrics(1)
        assert (run.path / METRICS).read_text() == json.dumps(metrics(1)) + "\n"
        assert run.metrics(1) == [metrics(1)]

    def test_the_configuration_survives(self, run):
        again = Run.open(run.path)
        assert again.config == run.config
        assert again.made_by == run.made_by
        assert again.made_by["torch"] == torch.__version__


class TestCreate:
    def test_a_new_run_has_the_checkpoint_of_epoch_0_and_nothing_else_remains(self, tmp_path):
        trainer = make_trainer()
        Run.create(tmp_path / "a" / "run", trainer)
        assert [p.name for p in (tmp_path / "a").iterdir()] == ["run"]
        assert set(contents(tmp_path / "a" / "run")) == {CONFIG, CHECKPOINT, METRICS}

    def test_an_empty_directory_is_used(self, tmp_path):
        Run.create(tmp_path, make_trainer())
        assert (tmp_path / CONFIG).exists()

    @pytest.mark.parametrize("name", [CONFIG, "notes.txt"])
    def test_what_is_there_is_kept(self, tmp_path, name):
        (tmp_path / name).write_text("mine")
        with pytest.raises(InputError, match="holds a run already" if name == CONFIG else "empty"):
            Run.create(tmp_path, make_trainer())
        assert contents(tmp_path) == {name: b"mine"}

    def test_a_file_or_an_impossible_place_is_refused(self, tmp_path):
        file = tmp_path / "file"
        file.write_text("mine")
        with pytest.raises(InputError, match="is a file"):
            check_free(file)
        with pytest.raises(InputError, match=r"cannot be created: .* is not a folder"):
            check_free(file / "below")
        with pytest.raises(InputError, match="cannot be"):
            check_free(tmp_path / ("x" * 300) / "run")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_directory_without_permission_is_refused(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(InputError, match="no permission"):
            check_free(tmp_path / "run")

    def test_a_failure_halfway_leaves_nothing(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        trainer = make_trainer()
        monkeypatch.setattr("h2learn.runs.replace_file", full)
        with pytest.raises(InputError, match="cannot be created: No space left"):
            Run.create(tmp_path / "run", trainer)
        assert list(tmp_path.iterdir()) == []


class TestFiles:
    def test_a_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "x"
        replace_file(path, b"old")

        def fail(_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(files.os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output"):
            replace_file(path, b"new")
        assert contents(tmp_path) == {"x": b"old"}

    def test_a_file_larger_than_it_can_be_is_not_read(self, tmp_path):
        (tmp_path / "x").write_bytes(b"12345")
        assert read_file(tmp_path / "x", 5) == b"12345"
        with pytest.raises(InputError, match="larger than the 4 bytes"):
            read_file(tmp_path / "x", 4)
        with pytest.raises(InputError, match="cannot be read: No such file"):
            read_file(tmp_path / "y", 4)

    def test_checking_a_place_writes_nothing(self, tmp_path):
        check_creatable(tmp_path / "a" / "b", "--json")
        assert list(tmp_path.iterdir()) == []


CONFIGS = {
    "not JSON": (lambda c: "{", "not valid JSON"),
    "not an object": (lambda c: "[]", "must hold a JSON object, got list"),
    "too deep": (lambda c: "[" * 100_000, "not valid JSON"),
    "too large": (lambda c: json.dumps(c) + " " * 2**20, "larger than"),
    "another format": (lambda c: c | {"format": "x"}, "not a run of h2learn: format 'x'"),
    "another version": (lambda c: c | {"version": 2}, "run of version 2; this h2learn reads ver"),
    "no configuration": (lambda c: c | {"config": None}, "config and made_by must be JSON obj"),
    "a field too many": (lambda c: c | {"config": c["config"] | {"x": 1}}, "x extra inputs"),
    "a wrong value": (lambda c: c | {"config": c["config"] | {"epochs": 0}}, "epochs must be gr"),
    "a wrong type": (lambda c: c | {"config": c["config"] | {"epochs": "2"}}, "epochs must be a"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_damaged_configuration_is_refused(run, case):
    change, message = CONFIGS[case]
    file = run.path / CONFIG
    changed = change(json.loads(file.read_text()))
    file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(InputError, match=message) as caught:
        Run.open(run.path)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


LINES = {
    "missing": ("", "0 lines; the checkpoint has 1 epochs|line 1"),
    "torn": ('{"epoch": 1, "lo', "not valid JSON"),
    "another epoch": (json.dumps(metrics(2)), "line 1 is not the metrics of epoch 1"),
    "no number": (json.dumps(metrics(1) | {"seconds": "1"}), "line 1 is not the metrics"),
    "not finite": (json.dumps(metrics(1) | {"loss": float("nan")}), "line 1 is not the metrics"),
}


@pytest.mark.parametrize("case", LINES)
def test_damaged_metrics_are_refused(run, case):
    line, message = LINES[case]
    (run.path / METRICS).write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        run.metrics(1)


def _set(name, value):
    def change(tensors):
        tensors[name] = value(tensors[name]) if callable(value) else value

    return change


def _drop(name):
    return lambda tensors: tensors.pop(name)


W, A = "model.fc1.weight", "adam.fc1.weight"
TENSORS = {
    "a missing weight": (_drop(W), "checkpoint of another model: it has no fc1.weight"),
    "a weight too many": (_set("model.x", torch.ones(1)), "another model: this one has no x"),
    "another shape": (
        _set(W, torch.ones(256, 63)),
        r"its fc1.weight is float32 \[256, 63\], this model's float32 \[256, 64\]",
    ),
    "another type": (_set(W, torch.Tensor.half), r"its fc1.weight is float16 \[256, 64\]"),
    "NaN": (_set(W, lambda w: w * torch.nan), "fc1.weight holds NaN or infinity"),
    "infinity": (_set(f"{A}.mean", lambda m: m + torch.inf), "mean holds NaN or infinity"),
    "no first moment": (_drop(f"{A}.mean"), "it has no adam.fc1.weight.mean"),
    "a moment of nothing": (_set("adam.x.mean", torch.ones(1)), "this one has no adam.x.mean"),
    "a moment's shape": (_set(f"{A}.square", torch.ones(2)), r"square is float32 \[2\], this"),
    "a stray tensor": (_set("x", torch.ones(1)), "this one has no x"),
    "a negative square": (_set(f"{A}.square", lambda s: s - 1), "that no training leaves"),
    "half a step": (_set(f"{A}.step", torch.tensor(1.5)), "that no training leaves"),
    "a step too many": (_set(f"{A}.step", torch.tensor(7.0)), "that no training leaves"),
}
METADATA = {
    "no format": ({"format": ""}, "not a checkpoint of h2learn: format ''"),
    "another version": ({"version": "2"}, "checkpoint of version '2'; this h2learn reads"),
    "an epoch too far": ({"epoch": "3"}, "epoch must be 0 to 2, the run's last, got '3'"),
    "a negative epoch": ({"epoch": "-1"}, "epoch must be 0 to 2"),
    "a strange epoch": ({"epoch": "²"}, "epoch must be 0 to 2"),
    "a huge epoch": ({"epoch": "9" * 5000}, "epoch must be 0 to 2"),
    "another description": ({"model": "0" * 64}, "checkpoint of another model: its weights have"),
}


def refused(run, message):
    """Restoring must fail with one line, and leave the trainer as it was."""
    trainer = make_trainer()
    before = weights(trainer)
    with pytest.raises(InputError, match=message) as caught:
        run.restore(trainer)
    assert str(caught.value).startswith(f"{run.path / CHECKPOINT}: ")
    assert "\n" not in str(caught.value)
    assert same(before, weights(trainer))
    assert trainer.epoch == 0
    assert adam_state(trainer) == {}


@pytest.mark.parametrize("case", TENSORS)
def test_a_checkpoint_with_wrong_tensors_is_refused(run, case):
    change, message = TENSORS[case]
    rewrite(run.path / CHECKPOINT, change_tensors=change)
    refused(run, message)


@pytest.mark.parametrize("case", METADATA)
def test_a_checkpoint_with_wrong_metadata_is_refused(run, case):
    change, message = METADATA[case]
    rewrite(run.path / CHECKPOINT, change_metadata=change)
    refused(run, message)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(run, share):
    content = (run.path / CHECKPOINT).read_bytes()
    (run.path / CHECKPOINT).write_bytes(content[: int(share * len(content))])
    refused(run, "not a readable checkpoint")


def test_a_checkpoint_that_is_missing_or_not_one_is_refused(run):
    file = run.path / CHECKPOINT
    file.write_bytes(os.urandom(4096))
    refused(run, "not a readable checkpoint")
    file.write_bytes(bytes(10 * 2**20))
    refused(run, "10485760 bytes; a checkpoint of this model has at most")
    file.unlink()
    refused(run, "cannot be read: No such file")


def test_the_same_shapes_with_another_neuron_are_another_model(tmp_path):
    def trainer(threshold):
        return make_trainer(nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.LIF(threshold=threshold), nn.Linear(16, 10),
            nn.Readout(),
        ))  # fmt: skip

    write_checkpoint(tmp_path / CHECKPOINT, trainer(0.25))
    with pytest.raises(InputError, match=r"another model: its weights have the right shapes"):
        read_checkpoint(tmp_path / CHECKPOINT, trainer(0.5))


def test_values_learned_by_neurons_do_not_make_another_model(tmp_path):
    def trainer():
        torch.manual_seed(0)
        return make_trainer(nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.PLIF(learn_threshold=True), nn.Linear(16, 10),
            nn.Readout(),
        ))  # fmt: skip

    trained, again = trainer(), trainer()
    trained.train_epoch()
    write_checkpoint(tmp_path / CHECKPOINT, trained)
    read_checkpoint(tmp_path / CHECKPOINT, again)
    assert same(weights(trained), weights(again))
    assert again.model[2].threshold.item() != 0.25


def test_an_address_in_a_description_does_not_make_another_model():
    class Named(torch.nn.Identity):
        def extra_repr(self):
            return repr(lambda: None)

    assert training._describe(Named()) == training._describe(Named())
