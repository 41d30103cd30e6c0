"""The command line: what it prints and writes, what it refuses, and how it is interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import h2learn
import pytest
import torch
from h2learn.cli import main
from h2learn.config import TrainConfig
from h2learn.datasets import NAMES
from h2learn.kernels import KERNELS
from h2learn.runs import Run
from h2learn.training import Data, Trainer, build_model
from safetensors.torch import load_file

PACKAGE_FOLDER = str(Path(h2learn.__file__).parents[1])
SMALL = ["--timesteps", "2", "--epochs", "2", "--batch-size", "256"]
ROW_KEYS = {
    "name", "kind", "neurons", "neuron_steps", "spikes", "firing_rate",
    "gradients", "zero_gradients", "zero_gradient_share",
    "forward_operations_done", "forward_operations_skipped",
    "backward_operations_done", "backward_operations_skipped",
    "weight_update_operations_done", "weight_update_operations_skipped",
    "saved_bytes", "dense_bytes",
}  # fmt: skip

# A user's own model, with every source of randomness; it sends itself a signal in mid-epoch.
MORTAL = """
import os

import torch
from h2learn import nn

class Mortal(torch.nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += self.training
        if self.training and self.calls == int(os.environ.get("DIE_AT", 0)):
            os.kill(os.getpid(), int(os.environ["DIE_OF"]))
        return x

def build(shape, classes):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm(32), nn.LIF(), nn.Dropout(0.2), Mortal(),
        nn.Linear(32, classes), nn.Readout(),
    )
"""
MORTAL_OPTIONS = ("train", *SMALL, "--epochs", "3", "--model", "mine.py:build")


def _hear_interrupts():
    """A job in the background of a script inherits that SIGINT is ignored; a person's does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_python(*arguments, cwd, **environment):
    """A process of its own, for signals and for what happens on import."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        preexec_fn=_hear_interrupts,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": PACKAGE_FOLDER} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def h2learn_process(*arguments, cwd, **environment):
    return run_python("-m", "h2learn", *arguments, cwd=cwd, **environment)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, and the summary of its training."""
    folder = tmp_path_factory.mktemp("trained")
    json_file = folder / "json" / "train.json"
    assert main(["train", *SMALL, "--out", str(folder / "run"), "--json", str(json_file)]) == 0
    return folder / "run", json.loads(json_file.read_text())


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


class TestTrain:
    def test_the_run_directory_holds_everything(self, trained):
        run, summary = trained
        assert {p.name for p in run.iterdir()} == {
            "config.json", "checkpoint.safetensors", "metrics.jsonl", "layers.json",
            "summary.json",
        }  # fmt: skip
        assert json.loads((run / "summary.json").read_text()) == summary
        assert json.loads((run / "layers.json").read_text()) == summary["layers"]
        lines = metrics(run)
        assert [line["epoch"] for line in lines] == [1, 2]
        assert lines[-1]["test_accuracy"] == summary["test_accuracy"]
        assert set(lines[0]["firing_rates"]) == {"lif1"}
        assert summary["train_seconds"] == sum(line["seconds"] for line in lines)

    def test_the_summary_has_the_promised_keys(self, trained):
        _, summary = trained
        assert 0.5 < summary["test_accuracy"] <= 1.0
        assert summary["step_ms"] == pytest.approx(summary["train_seconds"] * 1e3 / (2 * 6))
        assert [set(row) for row in summary["layers"]] == [ROW_KEYS] * 2
        assert [row["name"] for row in summary["layers"]] == ["fc1", "fc2"]
        assert 0.0 < summary["layers"][0]["firing_rate"] < 1.0

    def test_the_defaults_reach_97_percent_on_digits(self, tmp_path):
        json_file = tmp_path / "summary.json"
        assert main(["train", "--out", str(tmp_path / "run"), "--json", str(json_file)]) == 0
        assert json.loads(json_file.read_text())["test_accuracy"] >= 0.97

    def test_output_that_is_no_terminal_is_plain_lines(self, tmp_path, capsys):
        assert main(["train", *SMALL, "--out", str(tmp_path / "run")]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert "\x1b" not in out
        assert "\r" not in out
        rows = [line for line in out.splitlines() if line.lstrip().startswith(("1/2", "2/2"))]
        assert len(rows) == 2
        assert all("lif1" in row for row in rows)
        assert "Test accuracy" in out
        assert "fc1, lif1" in out
        assert "total" in out

    def test_a_run_is_not_overwritten(self, trained, capsys):
        run, _ = trained
        before = tree(run)
        assert main(["train", *SMALL, "--out", str(run)]) == 2
        assert "continue it with --resume" in capsys.readouterr().err
        assert tree(run) == before

    def test_resuming_a_finished_run_shows_it_again_and_changes_no_weight(self, trained, capsys):
        run, summary = trained
        before = (run / "metrics.jsonl").read_bytes(), load_file(run / "checkpoint.safetensors")
        assert main(["train", "--resume", "--out", str(run)]) == 0
        assert f"Test accuracy {100 * summary['test_accuracy']:.2f} %" in capsys.readouterr().out
        assert (run / "metrics.jsonl").read_bytes() == before[0]
        after = load_file(run / "checkpoint.safetensors")
        assert all(torch.equal(after[name], t) for name, t in before[1].items())

    def test_out_and_dataset_have_defaults(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert main(["train", *SMALL, "--epochs", "1"]) == 0
        assert (tmp_path / "runs" / "digits-mlp" / "summary.json").exists()

    def test_json_goes_to_a_device_too(self, tmp_path):
        result = h2learn_process(
            "train", *SMALL, "--epochs", "1", "--json", "/dev/stderr", cwd=tmp_path
        )
        assert result.returncode == 0
        assert json.loads(result.stderr)["epochs_done"] == 1

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_every_kernel_trains(self, tmp_path, kernel):
        run = tmp_path / "run"
        options = [*SMALL, "--epochs", "1", "--kernel", kernel, "--out", str(run)]
        assert main(["train", *options]) == 0
        assert json.loads((run / "summary.json").read_text())["test_accuracy"] > 0.5

    def test_diverging_is_one_line_and_status_1(self, tmp_path, capsys):
        (tmp_path / "mine.py").write_text(
            "import torch\nfrom h2learn import nn\n"
            "class Root(torch.nn.Module):\n"
            "    def forward(self, x): return x.abs().sqrt()\n"
            "def build(s, c):\n"
            "    model = nn.Sequential(nn.Flatten(), nn.Linear(64, c), nn.Readout(), Root())\n"
            "    torch.nn.init.zeros_(model[1].weight)\n"
            "    torch.nn.init.zeros_(model[1].bias)\n"
            "    return model\n"
        )
        model = ["--model", f"{tmp_path / 'mine.py'}:build", "--out", str(tmp_path / "run")]
        assert main(["train", *SMALL, *model]) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert err.startswith("error: training diverged: the weights are no longer finite in epo")
        assert "keeps 0 of 2 epochs" in err

    def test_a_layer_that_never_fires_is_a_warning_of_one_line(self, tmp_path):
        (tmp_path / "mine.py").write_text(
            "from h2learn import nn\n"
            "def build(s, c): return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), "
            "nn.LIF(threshold=99.0), nn.Linear(8, c), nn.Readout())\n"
        )
        result = h2learn_process("train", *SMALL, "--model", "mine.py:build", cwd=tmp_path)
        assert result.returncode == 0
        assert result.stderr.count("\n") == 1
        assert result.stderr.startswith("warning: LIF layer of shape [8] is dead")
        assert (tmp_path / "runs" / "digits-mine").is_dir()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "mine.py").write_text(MORTAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*MORTAL_OPTIONS, "--out", "run"]) == 0
    return folder / "run"


class TestInterruption:
    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
    @pytest.mark.parametrize("call", [3, 10])  # of 6 an epoch: in the first, in the second
    def test_a_run_stopped_in_mid_epoch_resumes_to_the_same_bits(
        self, whole, tmp_path, monkeypatch, how, call
    ):
        (tmp_path / "mine.py").write_text(MORTAL)
        stopped = h2learn_process(
            *MORTAL_OPTIONS, "--out", "run", cwd=tmp_path, DIE_AT=str(call), DIE_OF=str(int(how))
        )
        epochs = call // 6
        if how == signal.SIGKILL:
            assert stopped.returncode == -signal.SIGKILL
        else:
            assert stopped.returncode == 1
            assert stopped.stderr == (
                f"interrupted; {epochs} of 3 epochs are kept, and this continues with: "
                "h2learn train --resume --out run --model mine.py:build\n"
            )
        run = tmp_path / "run"
        assert len(metrics(run)) == epochs

        monkeypatch.chdir(tmp_path)
        assert main(["train", "--resume", "--out", "run", "--model", "mine.py:build"]) == 0
        one, other = (load_file(path / "checkpoint.safetensors") for path in (whole, run))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        for left, right in zip(metrics(whole), metrics(run), strict=True):
            assert left["loss"] == right["loss"]
            assert left["firing_rates"] == right["firing_rates"]


class TestEvaluate:
    def test_it_finds_what_training_reported(self, trained, tmp_path, capsys):
        run, summary = trained
        assert main(["evaluate", str(run), "--json", str(tmp_path / "e.json")]) == 0
        assert "Test accuracy" in capsys.readouterr().out
        again = json.loads((tmp_path / "e.json").read_text())
        assert again.keys() == summary.keys()
        for key in ("test_accuracy", "test_loss", "train_seconds", "step_ms", "layers"):
            assert again[key] == summary[key]

    def test_a_run_of_no_epoch_is_evaluated_too(self, tmp_path, capsys):
        config = TrainConfig.from_options({"timesteps": 2})
        data = Data.load(config)
        run = Run.create(tmp_path / "run", Trainer(build_model(config, data), data, config))
        json_file = tmp_path / "e.json"
        assert main(["evaluate", str(run.path), "--json", str(json_file)]) == 0
        assert "after 0 of 30 epochs" in capsys.readouterr().out
        summary = json.loads(json_file.read_text())
        assert summary["epochs_done"] == 0
        assert summary["step_ms"] is summary["train_loss"] is None

    def test_it_writes_nothing_into_the_run(self, trained):
        run, _ = trained
        before = tree(run)
        assert main(["evaluate", str(run)]) == 0
        assert tree(run) == before


BAD_INPUT = {
    "no such command": (["teach"], "No such command 'teach'"),
    "no such option": (["train", "--depth", "3"], "No such option.*--depth"),
    "an argument too many": (["train", "digits"], "unexpected extra argument"),
    "epochs not a number": (
        ["train", "--epochs", "x"],
        "--epochs.*must be a whole number, got 'x'",
    ),
    "epochs not whole": (["train", "--epochs", "2.5"], "must be a whole number, got '2.5'"),
    "epochs zero": (["train", "--epochs", "0"], "--epochs must be greater than or equal to 1"),
    "timesteps zero": (["train", "--timesteps", "0"], "--timesteps must be greater"),
    "batch size negative": (["train", "--batch-size", "-4"], "--batch-size must be .*got -4"),
    "learning rate NaN": (["train", "--lr", "nan"], "--lr must be a finite number, got nan"),
    "learning rate zero": (["train", "--lr", "0"], "--lr must be greater than 0, got 0.0"),
    "learning rate text": (["train", "--lr", "fast"], "--lr.*must be a number, got 'fast'"),
    "seed negative": (["train", "--seed", "-1"], "--seed must be greater"),
    "threads zero": (["train", "--threads", "0"], "--threads must be 1 to 1024, got 0"),
    "threads many": (["train", "--threads", "99999"], "--threads must be 1 to 1024, got 99999"),
    "unknown kernel": (["train", "--kernel", "fast"], "--kernel must be one of auto, event"),
    "accelerator": (["train", "--accelerator", "h3learn"], "h3learn"),
    "unknown dataset": (["train", "--dataset", "svhn"], "--dataset must be one of digits, mn"),
    "no root": (["train", "--dataset", "mnist"], "dataset mnist needs root, the folder"),
    "root missing": (["train", "--dataset", "mnist", "--root", "absent"], "absent: found no s"),
    "root empty": (["train", "--dataset", "nmnist", "--root", "empty"], "Train"),
    "root for digits": (["train", "--root", "empty"], "digits comes with scikit-learn"),
    "unknown model": (["train", "--model", "resnet"], "--model must be one of mlp, lenet, cif"),
    "no model file": (["train", "--model", "absent.py:f"], "there is no file 'absent.py'"),
    "broken model": (["train", "--model", "broken.py:f"], "importing it failed: SyntaxError"),
    "wrong model": (["train", "--model", "wrong.py:f"], "does not take inputs"),
    "lenet on 8x8": (["train", "--model", "lenet"], "lenet needs samples of shape"),
    "out is a file": (["train", "--out", "broken.py"], "--out broken.py is a file"),
    "out below a file": (["train", "--out", "broken.py/run"], "broken.py is not a folder"),
    "out not creatable": (["train", "--out", "/proc/h2learn"], "--out /proc/h2learn cannot be"),
    "out not empty": (["train", "--out", "full"], "--out full is not empty"),
    "nothing to resume": (["train", "--resume", "--out", "empty"], "there is no run in empty"),
    "resume nowhere": (["train", "--resume"], "there is no run in runs/digits-mlp"),
    "json is a folder": (["train", "--json", "empty"], "--json empty is a folder"),
    "json below a file": (["train", "--json", "broken.py/x"], "broken.py is not a folder"),
    "evaluate nothing": (["evaluate"], "Missing argument 'RUN_DIR'"),
    "evaluate no run": (["evaluate", "empty"], r"there is no run in empty \(no config.json\)"),
    "info to a folder": (["info", "--json", "empty"], "--json empty is a folder"),
}


class TestBadInput:
    """Each case: exit status 2, one line on stderr, and nothing written."""

    @pytest.fixture
    def place(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "notes.txt").write_text("mine")
        (tmp_path / "broken.py").write_text("def f(:")
        (tmp_path / "wrong.py").write_text(
            "import torch\ndef f(shape, classes): return torch.nn.Linear(3, classes)\n"
        )
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return tmp_path

    @pytest.mark.parametrize("case", BAD_INPUT)
    def test_it_is_refused(self, place, capsys, case):
        arguments, message = BAD_INPUT[case]
        self.refused(arguments, message, place, capsys)

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("--epochs", "9"),
            ("--seed", "1"),
            ("--lr", "0.1"),
            ("--kernel", "dense"),
            ("--timesteps", "3"),
            ("--batch-size", "7"),
            ("--dataset", "mnist"),
        ],
    )
    def test_a_resumed_run_keeps_its_options(self, trained, place, capsys, option, value):
        run, _ = trained
        arguments = ["train", "--resume", "--out", str(run), option, value]
        self.refused(arguments, rf"{option} {value} differs from the run's", run, capsys)
        arguments[-2:] = ["--model", "lenet"]
        self.refused(arguments, "--model lenet differs from the run's mlp", run, capsys)

    def test_a_checkpoint_of_another_model(self, trained, place, capsys):
        run, _ = trained
        other = place / "other"
        other.mkdir()
        for file in run.iterdir():
            (other / file.name).write_bytes(file.read_bytes())
        config = json.loads((other / "config.json").read_text())
        for changed, message in (
            ({"model": "lenet", "dataset": "digits"}, "lenet needs samples"),
            ({"epochs": 1}, "epoch must be 0 to 1, the run's last, got '2'"),
            ({"kernel": "dense"}, "checkpoint of another model"),
        ):
            changed_config = config | {"config": config["config"] | changed}
            (other / "config.json").write_text(json.dumps(changed_config))
            for command in (["train", "--resume", "--out", "other"], ["evaluate", "other"]):
                self.refused(command, message, place, capsys)

    def test_code_is_never_taken_from_a_run_directory(self, trained, place, capsys):
        run, _ = trained
        evil = place / "evil"
        evil.mkdir()
        for file in run.iterdir():
            (evil / file.name).write_bytes(file.read_bytes())
        (place / "evil.py").write_text("open('proof', 'w')\n")
        config = json.loads((evil / "config.json").read_text())
        config["config"]["model"] = f"{place / 'evil.py'}:f"
        (evil / "config.json").write_text(json.dumps(config))
        for command in (["train", "--resume", "--out", "evil"], ["evaluate", "evil"]):
            self.refused(command, "name its code with --model file.py:factory", place, capsys)

    def test_a_target_that_this_machine_does_not_have(self, place):
        result = h2learn_process("info", cwd=place, H2LEARN_TARGET="quantum")
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1
        assert "quantum" in result.stderr

    @staticmethod
    def refused(arguments, message, place, capsys):
        before = tree(place)
        capsys.readouterr()
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert "Traceback" not in err
        assert re.search(message, err), err
        assert tree(place) == before


class TestInfo:
    def test_it_shows_what_it_writes(self, tmp_path, capsys):
        assert main(["info", "--json", str(tmp_path / "info.json")]) == 0
        out = capsys.readouterr().out
        facts = json.loads((tmp_path / "info.json").read_text())
        assert facts["version"] == h2learn.__version__
        assert facts["active_target"] in facts["targets"]
        assert set(facts["kernels"]) == set(KERNELS)
        assert set(facts["datasets"]) == set(NAMES)
        assert facts["models"] == ["mlp", "lenet", "cifar10net"]
        assert f"{facts['active_target']} (active)" in out
        for shown in [*facts["targets"], *facts["kernels"], *facts["datasets"], *facts["models"]]:
            assert shown in out
        assert str(facts["build"]["compiler"]) in out

    def test_version_and_help(self, capsys):
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"{h2learn.__version__}\n"
        for arguments in ([], ["--help"], ["train", "--help"]):
            assert main(arguments) == 0
            assert "Usage: h2learn" in capsys.readouterr().out


def test_help_does_not_wait_for_torch(tmp_path):
    code = (
        "import sys; from h2learn.cli import main; main(['train', '--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert run_python("-c", code, cwd=tmp_path).returncode == 0


def test_the_reader_of_a_pipe_may_leave(tmp_path):
    code = (
        "import os, sys; from h2learn.cli import main\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
        "sys.exit(main(['info']))"
    )
    result = run_python("-c", code, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == ""


def test_an_ascii_terminal_gets_its_table(tmp_path):
    options = ["train", *SMALL, "--epochs", "1"]
    result = h2learn_process(*options, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert result.stdout.isascii()
    assert "total" in result.stdout
