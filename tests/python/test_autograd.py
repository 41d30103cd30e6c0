"""Autograd's promises: version checks, second derivatives refused, accumulation, no leaks."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from h2learn import SpikeTensor, nn
from h2learn.surrogate import ATan
from torch import Tensor


def spikes(*shape: int) -> SpikeTensor:
    return SpikeTensor.from_dense((torch.rand(shape) < 0.4).float())


def neurons(**options) -> nn.LIF:
    return nn.LIF(surrogate=ATan(), **options).eval()


MODULES = {
    "linear": (lambda: nn.Linear(9, 4), (3, 2, 9)),
    "conv": (lambda: nn.Conv2d(3, 4, 3), (3, 2, 3, 6, 6)),
    "lif": (neurons, (3, 2, 9)),
    "average": (lambda: nn.AvgPool2d(2), (3, 2, 3, 6, 6)),
    "maximum": (lambda: nn.MaxPool2d(2), (3, 2, 3, 6, 6)),
    "flatten": (lambda: nn.Flatten(), (3, 2, 3, 6, 6)),
    "dropout": (lambda: nn.Dropout(0.3), (3, 2, 9)),
}


@pytest.mark.parametrize("name", MODULES)
def test_double_backward_is_refused(name):
    """Linear in its input or not, no layer pretends to have a second derivative."""
    make, shape = MODULES[name]
    x = spikes(*shape).requires_grad_()
    outputs = make()(x)
    (grad,) = torch.autograd.grad((outputs * outputs).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("name", MODULES)
def test_gradients_accumulate_over_uses(name):
    make, shape = MODULES[name]
    module, x = make(), spikes(*shape).requires_grad_()
    torch.manual_seed(1)
    (once,) = torch.autograd.grad(module(x).sum(), x)
    torch.manual_seed(1)
    first = module(x)
    torch.manual_seed(1)
    (twice,) = torch.autograd.grad((first + module(x)).sum(), x)
    assert torch.equal(twice, 2 * once)


FUSED = {"fused": (lambda: nn.Sequential(nn.Linear(9, 4), nn.LIF()), (3, 2, 9))}


@pytest.mark.parametrize("name", ["linear", "conv", "fused"])
def test_weights_changed_before_backward_are_noticed(name):
    make, shape = (MODULES | FUSED)[name]
    layer, x = make(), spikes(*shape).requires_grad_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    loss = layer(x).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_learned_neuron_changed_before_backward_is_noticed():
    layer = neurons(learn_threshold=True, learn_decay=True)
    loss = layer(torch.rand(3, 2, 9)).sum()
    with torch.no_grad():
        layer.threshold.add_(0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_analog_inputs_changed_before_backward_are_noticed():
    layer, x = nn.Linear(9, 4), torch.rand(3, 2, 9)
    loss = layer(x).sum()
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", MODULES)
def test_backward_twice_needs_retain_graph(name):
    make, shape = MODULES[name]
    x = spikes(*shape).requires_grad_()
    module = make()
    loss = (module(x) * 2.0).square().sum()
    loss.backward(retain_graph=True)
    first = x.grad.clone()
    loss.backward()
    assert torch.allclose(x.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("name", MODULES)
def test_expanded_and_strided_gradients(name):
    """sum() sends back an expanded tensor, a transposed loss a strided one."""
    make, shape = MODULES[name]
    module, x = make(), spikes(*shape).requires_grad_()
    torch.manual_seed(1)
    y = module(x)
    weights = torch.randn(y.shape)
    (strided,) = torch.autograd.grad((y.transpose(0, 1) * weights.transpose(0, 1)).sum(), x)
    torch.manual_seed(1)
    (plain,) = torch.autograd.grad(module(x), x, weights)
    assert torch.equal(strided, plain)
    torch.manual_seed(1)
    (expanded,) = torch.autograd.grad(module(x).sum(), x)
    torch.manual_seed(1)
    (ones,) = torch.autograd.grad(module(x), x, torch.ones(y.shape))
    assert torch.equal(expanded, ones)


@pytest.mark.parametrize("name", MODULES)
def test_no_gradient_when_none_is_wanted(name):
    make, shape = MODULES[name]
    module, x = make(), spikes(*shape)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    assert not module(x).requires_grad
    x.requires_grad_()
    with torch.no_grad():
        assert not module(x).requires_grad
    with torch.inference_mode():
        assert module(spikes(*shape)).shape == module(x).shape


def test_unused_outputs_get_no_gradient():
    x = torch.rand(3, 2, 9, requires_grad=True)
    layer = neurons(stateful=True)
    layer(x)
    layer.membrane.sum().backward()  # the spikes were not used
    assert x.grad[-1].all()


def test_spikes_in_two_branches():
    """What two synapses send back to the same neurons is summed, masks included."""
    x = torch.rand(4, 2, 3, 8, 8, requires_grad=True)
    layer = nn.LIF().eval()
    left, right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    both = torch.autograd.grad((lambda s: left(s).sum() + right(s).sum())(layer(x)), x)[0]
    separate = sum(torch.autograd.grad(conv(layer(x)).sum(), x)[0] for conv in (left, right))
    assert torch.allclose(both, separate, rtol=1e-5, atol=1e-6)
    mixed = torch.autograd.grad((lambda s: left(s).sum() + (s * 3).sum())(layer(x)), x)[0]
    separate = (
        torch.autograd.grad(left(layer(x)).sum(), x)[0]
        + torch.autograd.grad((layer(x) * 3).sum(), x)[0]
    )
    assert torch.allclose(mixed, separate, rtol=1e-5, atol=1e-6)


def test_graph_frees_what_it_saved():
    layer, linear = neurons(), nn.Linear(9, 4)
    emitted = layer(torch.rand(3, 2, 9, requires_grad=True))
    words = weakref.ref(emitted.words)
    loss = linear(emitted).sum()
    del emitted
    assert words() is not None
    loss.backward()
    del loss
    gc.collect()
    assert words() is None


def test_hooks_on_spikes():
    x = torch.rand(3, 2, 9, requires_grad=True)
    emitted = neurons()(x)
    seen: list[Tensor] = []
    emitted.register_hook(seen.append)
    emitted.retain_grad()
    nn.Linear(9, 4)(emitted).sum().backward()
    assert seen[0].shape == (3, 2, 9)
    assert torch.equal(emitted.grad, seen[0])


def test_gradient_of_part_of_the_time():
    x = torch.rand(5, 2, 9, requires_grad=True)
    layer, linear = neurons(), nn.Linear(9, 4)
    emitted = layer(x)
    last = torch.autograd.grad(linear(emitted[-1]).sum(), x, retain_graph=True)[0]
    weights = torch.zeros(5, 2, 4)
    weights[-1] = 1.0
    whole = torch.autograd.grad((linear(emitted) * weights).sum(), x)[0]
    assert torch.allclose(last, whole, rtol=1e-5, atol=1e-7)


REARRANGED = {
    "slice of T": lambda s: s[1:4:2],
    "slice of B": lambda s: s[:, 1:],
    "one timestep": lambda s: s[2:3],
    "gathered": lambda s: s[torch.tensor([4, 0, 0, 2])],
    "chosen": lambda s: s.index_select(1, torch.tensor([2, 0])),
    "split": lambda s: s.split(2)[1],
    "unbound": lambda s: torch.stack(s.unbind(0)[::-1]),
    "stacked": lambda s: torch.stack([s[0], s[3]], dim=1),
    "joined": lambda s: torch.cat([s[3:], s[:1]]),
    "joined with data": lambda s: torch.cat([s, spikes(5, 2, 3, 8, 8)], dim=1),
    "rows": lambda s: s.flatten(0, 1).unflatten(0, (3, 5)),
    "doubled": lambda s: s + s.clone(),
    "added to data": lambda s: s + spikes(5, 3, 3, 8, 8),
    "shifted sum": lambda s: s[1:] + s[:-1],
    "pooled part": lambda s: nn.MaxPool2d(2, 1)(nn.AvgPool2d(1)(s[1:])),
    "copied": lambda s: s.clone().to(torch.float32).contiguous(),
}


@pytest.mark.parametrize("name", REARRANGED)
def test_masks_follow_their_spikes(name):
    """Whatever moves or joins packed spikes moves their masks: gradients are the dense ones."""
    x = torch.rand(5, 3, 3, 8, 8, requires_grad=True)
    conv, rearrange = nn.Conv2d(3, 4, 3), REARRANGED[name]
    grads = []
    for packed in (True, False):
        torch.manual_seed(2)
        emitted = rearrange(nn.LIF().eval()(x))
        currents = conv(emitted if packed else emitted.to_dense())
        weights = torch.linspace(-1, 2, currents.numel()).view(currents.shape)
        grads.append(torch.autograd.grad((currents * weights).sum(), x)[0])
    assert isinstance(emitted, SpikeTensor)
    assert torch.allclose(grads[0], grads[1], rtol=1e-4, atol=1e-5)
