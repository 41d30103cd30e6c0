"""Models by name: their shapes, their layers, and factories in a user's own file."""

from __future__ import annotations

import pytest
import torch
from h2learn import nn
from h2learn.errors import InputError
from h2learn.models import MODELS, check_name, load_model


@pytest.mark.parametrize(
    ("name", "shape", "widths"),
    [
        ("mlp", (64,), [(64, 256), (256, 10)]),
        ("mlp", (1, 8, 8), [(64, 256), (256, 10)]),
        ("mlp", (1, 28, 28), [(784, 512), (512, 10)]),
        ("lenet", (1, 28, 28), [(1, 16), (16, 32), (512, 10)]),
        ("lenet", (2, 34, 34), [(2, 16), (16, 32), (800, 10)]),
        ("lenet", (1, 16, 19), [(1, 16), (16, 32), (32, 10)]),
        (
            "cifar10net",
            (3, 4, 8),
            [
                (3, 128),
                (128, 256),
                (256, 512),
                (512, 1024),
                (1024, 512),
                (1024, 1024),
                (1024, 512),
                (512, 10),
            ],
        ),
    ],
)
def test_layers_have_the_published_widths_and_scores_the_right_shape(name, shape, widths):
    model = load_model(name, shape, 10)
    found = [tuple(m.weight.shape[1::-1]) for m in model if isinstance(m, nn.Linear | nn.Conv2d)]
    assert found == widths
    assert model(torch.rand(2, 3, *shape)).shape == (3, 10)


@pytest.mark.parametrize("name", MODELS)
def test_neuron_options_reach_every_neuron(name):
    model = MODELS[name]((3, 16, 16), 4, threshold=0.75, decay=0.5, reset="soft")
    neurons = [m for m in model if isinstance(m, nn.LIF)]
    assert neurons
    assert {(float(n.threshold), float(n.decay), n.reset_mode) for n in neurons} == {
        (0.75, 0.5, "soft")
    }


def test_scores_are_the_mean_current_of_the_last_layer():
    model = load_model("mlp", (6,), 4)
    x = torch.rand(5, 2, 6)
    currents = model[:-1](x)
    torch.testing.assert_close(model(x), currents.mean(0))


def test_batch_norm_replaces_the_bias_of_a_convolution():
    with_norm, without = (MODELS["cifar10net"]((3, 4, 4), 2, batch_norm=b) for b in (True, False))
    assert with_norm.conv1.bias is None
    assert without.conv1.bias is not None
    assert not any(isinstance(m, nn.BatchNorm) for m in without)


@pytest.mark.parametrize(
    ("name", "shape"), [("lenet", (1, 15, 28)), ("lenet", (64,)), ("cifar10net", (3, 3, 9))]
)
def test_a_shape_too_small_is_refused_with_what_is_allowed(name, shape):
    with pytest.raises(InputError, match=rf"{name} needs samples of shape .*at least"):
        load_model(name, shape, 10)


def test_a_factory_in_a_file_is_called_with_shape_and_classes(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "def build(shape, classes):\n"
        "    assert shape == (1, 8, 8)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.Linear(64, classes))\n"
    )
    name = f"{file}:build"
    assert check_name(name) == name
    assert load_model(name, (1, 8, 8), 3)[1].out_features == 3


@pytest.mark.parametrize(
    ("code", "factory", "message"),
    [
        (None, "build", "there is no file"),
        ("def build(:", "build", "importing it failed: SyntaxError"),
        ("import nothing_of_this_name", "build", "ModuleNotFoundError: No module named"),
        ("raise ValueError('a\\nb')", "build", "ValueError: a b"),
        ("def other(s, c): pass", "build", "has no 'build'; its functions are other"),
        ("x = 1", "build", "has no 'build'; it defines no function"),
        ("build = 3", "build", "'build' must be a function .* got int"),
        ("def build(shape): pass", "build", "failed with TypeError"),
        ("def build(s, c): return 5", "build", "must return a torch.nn.Module, got int"),
    ],
)
def test_an_unusable_file_is_one_line_that_says_why(tmp_path, code, factory, message):
    file = tmp_path / "mine.py"
    if code is not None:
        file.write_text(code)
    with pytest.raises(InputError, match=message) as caught:
        load_model(f"{file}:{factory}", (4,), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "resnet", "mine.py", "mine.py:", "mine.txt:f", "mine.py:1f"])
def test_a_name_that_is_neither_is_refused(name):
    with pytest.raises(InputError, match=r"must be one of mlp, lenet, cifar10net, or file\.py:fac"):
        check_name(name)
