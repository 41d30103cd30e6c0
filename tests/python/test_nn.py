"""Modules: normalisation, dropout, readouts, wiring, warnings, what a PyTorch user expects."""

from __future__ import annotations

import copy
import warnings

import gold
import pytest
import torch
from h2learn import SpikeTensor, nn
from h2learn.surrogate import ATan, Rect
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor


def spikes(shape, rate: float = 0.3, seed: int = 0) -> SpikeTensor:
    generator = torch.Generator().manual_seed(seed)
    return SpikeTensor.from_dense((torch.rand(shape, generator=generator) < rate).float())


def assert_gold(module: torch.nn.Module, inputs: Tensor, tolerance: float = 1e-6) -> Tensor:
    """Outputs and all gradients against the gold model; dropout masks are the module's own."""
    inputs = inputs.detach().requires_grad_()
    with gold.Twin(torch.nn.Sequential(module)) as twin:
        outputs = twin.model(inputs)
    weights = torch.randn(outputs.shape)
    grads = torch.autograd.grad((outputs * weights).sum(), [inputs, *module.parameters()])
    x = (inputs.to_dense() if isinstance(inputs, SpikeTensor) else inputs).detach().double()
    x.requires_grad_()
    expected = twin(x)
    reference = torch.autograd.grad(
        (expected * weights.double()).sum(), [x, *twin.parameters.values()]
    )
    assert gold.relative_error(outputs, expected) <= tolerance
    for value, gradient in zip(grads, reference, strict=True):
        assert gold.relative_error(value, gradient) <= tolerance
    return outputs


# BatchNorm.


@pytest.mark.parametrize("shape", [(5, 3, 4), (4, 2, 4, 5, 3)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(shape, training, affine):
    norm = nn.BatchNorm(4, affine=affine)
    with torch.no_grad():
        norm.running_mean.uniform_()
        norm.running_var.uniform_(0.5, 2.0)
        for parameter in norm.parameters():
            parameter.uniform_(0.5, 2.0)
    x = 3 * torch.randn(shape) + 1
    assert_gold(norm.train(training), x)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5, 3)])
def test_batch_norm_of_one_step(shape):
    x = torch.randn(shape)
    plain = torch.nn.BatchNorm1d(4) if len(shape) == 2 else torch.nn.BatchNorm2d(4)
    assert torch.allclose(nn.BatchNorm(4)(x), plain(x), atol=1e-6)


def test_one_step_is_flattened_and_dropped_like_a_sequence_of_one():
    x = spikes((1, 3, 4, 5, 6))
    for inputs in (x, x.to_dense()):
        assert torch.equal(nn.Flatten()(inputs[0]), nn.Flatten()(inputs)[0])
        torch.manual_seed(0)
        one = nn.Dropout(0.3)(inputs[0])
        torch.manual_seed(0)
        assert torch.equal(one, nn.Dropout(0.3)(inputs)[0])


def test_step_mode_of_a_whole_model():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.LIF(), nn.MaxPool2d(2), nn.Flatten(), nn.LIF())
    model.eval()
    x = spikes((4, 2, 2, 8, 8), 0.4)
    together = model(x)
    nn.set_step_mode(model, "s")
    one_by_one = torch.stack([model(step) for step in x])
    assert torch.equal(one_by_one, together)


def test_batch_norm_of_spikes():
    assert_gold(nn.BatchNorm(3), spikes((4, 2, 3, 5, 5)))


def test_batch_norm_keeps_running_statistics():
    norm = nn.BatchNorm(3, momentum=0.25)
    x = torch.randn(5, 4, 3, 2, 2)
    norm(x)
    rows = x.double().movedim(2, 0).flatten(1)
    assert gold.relative_error(norm.running_mean, 0.25 * rows.mean(1)) < 1e-6
    assert gold.relative_error(norm.running_var, 0.75 + 0.25 * rows.var(1)) < 1e-6
    norm.eval()
    before = norm.running_mean.clone()
    norm(x)
    assert torch.equal(norm.running_mean, before)
    untracked = nn.BatchNorm(3, track_running_stats=False).eval()
    assert gold.relative_error(untracked(x), gold.batch_norm(x.double())) < 1e-6


# Dropout.


@pytest.mark.parametrize("shape", [(4, 3, 70), (4, 3, 5, 6, 6)])
@pytest.mark.parametrize("kind", ["spikes", "counts", "analog"])
@pytest.mark.parametrize("p", [0.0, 0.2, 0.7])
def test_dropout(shape, kind, p):
    x = torch.randn(shape) if kind == "analog" else spikes(shape)
    x = x + spikes(shape, seed=1) if kind == "counts" else x
    outputs = assert_gold(nn.Dropout(p), x)
    assert isinstance(outputs, SpikeTensor) == (kind != "analog")


def test_dropout_draws_one_mask_a_sample_and_keeps_it_over_time():
    ones = SpikeTensor.from_dense(torch.ones(6, 16, 200))
    kept = nn.Dropout(0.25)(ones).to_dense() * 0.75
    assert torch.equal(kept, kept[:1].expand_as(kept))
    assert not torch.equal(kept[0, 0], kept[0, 1])
    assert kept.unique().tolist() == [0, 1]
    assert abs(kept[0].mean().item() - 0.75) < 5 * (0.25 * 0.75 / 3200) ** 0.5


def test_dropout_is_off_in_evaluation():
    x = spikes((3, 2, 9))
    assert torch.equal(nn.Dropout(0.9).eval()(x), x)


# Readout.


@given(
    st.sampled_from(["membrane", "rate", "last"]),
    st.sampled_from([0.0, 0.25, 0.9, 1.0]),
    st.integers(1, 12),
    st.sampled_from(["analog", "spikes", "counts"]),
)
def test_readout(mode, decay, steps, kind):
    shape = (steps, 3, 70)
    x = torch.randn(shape) if kind == "analog" else spikes(shape)
    x = x + spikes(shape, seed=1) if kind == "counts" else x
    outputs = assert_gold(nn.Readout(mode, decay), x)
    assert outputs.shape == (3, 70)


def test_readout_without_memory_is_the_mean():
    x = torch.randn(7, 3, 5)
    assert gold.relative_error(nn.Readout("membrane", 0.0)(x), x.mean(0)) < 1e-6


# Wiring.


def test_residual():
    x = spikes((3, 2, 4, 6, 6))
    body = torch.nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.LIF(surrogate=ATan()).eval())
    outputs = assert_gold(nn.Residual(body), x)
    assert isinstance(outputs, SpikeTensor)
    assert outputs.planes == 2
    assert torch.equal(outputs, body(x).to_dense() + x.to_dense())
    assert_gold(nn.Residual(nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 1)), x)


def test_residual_sums_to_three_planes_and_more():
    """A sum of sums leaves the packed path, never the right values."""
    x = spikes((3, 2, 70))
    twice = nn.Residual(nn.Residual(torch.nn.Identity()))
    assert torch.equal(twice(x), 3 * x.to_dense())


def test_a_layer_used_twice_accumulates_its_gradient():
    linear, neurons = nn.Linear(9, 9), nn.LIF(surrogate=ATan()).eval()
    model = torch.nn.Sequential(linear, neurons, linear, neurons, nn.Readout())
    errors = gold.gradient_errors(model, spikes((4, 2, 9)), lambda scores: (scores**2).sum())
    assert max(errors.library.values()) < 1e-6


def test_mixes_with_any_torch_module():
    mixed = torch.nn.Sequential(
        nn.Conv2d(2, 4, 3), torch.nn.GELU(), nn.LIF(surrogate=ATan()).eval(),
        nn.Flatten(), torch.nn.Linear(64, 9), torch.nn.LayerNorm(9),
        nn.LIF(surrogate=ATan()).eval(), nn.Linear(9, 3), nn.Readout(),
    )  # fmt: skip
    x = torch.randn(5, 2, 2, 6, 6)
    mixed(x).square().sum().backward()
    value = [p.grad for p in mixed.parameters()]

    double = copy.deepcopy(mixed).double()
    given = {}
    for index in (2, 6):
        mixed[index].register_forward_hook(
            lambda module, args, _, at=index: given.update(
                {at: gold.decisions(args[0], gold.options_of(module))}
            )
        )
    mixed(x)
    y = gold.conv2d(x.double(), double[0].weight, double[0].bias)
    y = gold.neuron(double[1](y), gold.options_of(mixed[2]), given=given[2]).spikes
    y = double[5](double[4](gold.flatten(y)))
    y = gold.neuron(y, gold.options_of(mixed[6]), given=given[6]).spikes
    y = gold.readout(gold.linear(y, double[7].weight, double[7].bias))
    y.square().sum().backward()
    for own, parameter in zip(value, double.parameters(), strict=True):
        assert gold.relative_error(own, parameter.grad) < 1e-6


def test_hooks_run():
    seen = []
    model = nn.Sequential(nn.Linear(3, 3), nn.LIF().eval())
    model[0].register_forward_hook(lambda module, args, out: out + 10)
    model[1].register_forward_pre_hook(lambda module, args: seen.append("pre"))
    model[1].register_full_backward_hook(lambda *_: seen.append("backward"))
    out = model(torch.zeros(2, 1, 3))
    assert out.firing_rate() == 1.0
    out.sum().backward()
    assert seen == ["pre", "backward"]


# State dictionaries, printing.


def test_exchanges_weights_with_torch():
    pairs = [
        (nn.Linear(7, 5), torch.nn.Linear(7, 5)),
        (nn.Linear(7, 5, bias=False), torch.nn.Linear(7, 5, bias=False)),
        (nn.Conv2d(4, 6, 3, 2, 1, groups=2), torch.nn.Conv2d(4, 6, 3, 2, 1, groups=2)),
        (nn.BatchNorm(4), torch.nn.BatchNorm2d(4)),
    ]
    for ours, theirs in pairs:
        theirs.load_state_dict(ours.state_dict())
        for name, value in theirs.state_dict().items():
            assert torch.equal(value, ours.state_dict()[name])
        ours.load_state_dict(theirs.state_dict())
    conv, reference = pairs[2]
    x = spikes((2, 3, 4, 7, 7))
    expected = reference(x.to_dense().flatten(0, 1)).unflatten(0, (2, 3))
    assert gold.relative_error(conv(x), expected) < 1e-6


def test_neurons_add_nothing_to_the_state_unless_learned():
    assert not nn.LIF().state_dict()
    learned = nn.LIF(learn_decay=True, learn_threshold=True)
    assert sorted(learned.state_dict()) == ["decay", "threshold"]
    assert sorted(nn.PLIF().state_dict()) == ["decay_logit"]
    other = nn.LIF(decay=0.9, learn_decay=True, learn_threshold=True)
    other.load_state_dict(learned.state_dict())
    assert other.decay.item() == 0.25


def test_same_seed_same_initial_weights_as_torch():
    torch.manual_seed(3)
    ours = nn.Conv2d(3, 4, 5)
    torch.manual_seed(3)
    theirs = torch.nn.Conv2d(3, 4, 5)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_prints_its_options():
    text = repr(
        nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1, kernel="event"),
            nn.LIF(decay=0.5, threshold=1.5, surrogate=Rect(0.75), reset="soft", inclusive=True),
            nn.AvgPool2d(2), nn.Dropout(0.3), nn.Readout("last", 0.125),
        )
    )  # fmt: skip
    assert all(
        words in text
        for words in (
            "kernel=event", "padding=(1, 1)", "decay=0.5", "threshold=1.5", "Rect(width=0.75",
            "reset=soft", "inclusive", "kernel_size=(2, 2)", "p=0.3", "mode=last", "0.125",
        )
    )  # fmt: skip


# Warnings about layers that cannot learn.


@pytest.mark.parametrize(("current", "word"), [(0.0, "dead"), (9.0, "saturated")])
def test_warns_once_about_a_layer_that_cannot_learn(current, word):
    neurons = nn.LIF()
    x = torch.full((4, 2, 7), current)
    with pytest.warns(nn.ActivityWarning, match=rf"(?s)\[7\].*{word}.*calibrate"):
        neurons(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        neurons(x)


@pytest.mark.filterwarnings("error")
def test_does_not_warn_without_need():
    nn.LIF().eval()(torch.zeros(4, 2, 7))
    nn.LIF()(torch.zeros(4, 0, 7))
    nn.LIF()(torch.rand(4, 2, 70))
