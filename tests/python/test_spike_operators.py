"""Every torch operator sees the dense float32 tensor that a SpikeTensor stands for: values, types,
shapes and gradients, for spikes and for counts of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from h2learn import SpikeTensor
from torch import Tensor


def spikes(shape, rate: float = 0.4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) < rate).float()


def dense_of(value):
    return value.to_dense() if isinstance(value, SpikeTensor) else value


WEIGHT = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
KERNEL = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(2))
OTHER = torch.randn(3, 2, 3, 4, 5, generator=torch.Generator().manual_seed(3))
INDEX = torch.tensor([2, 0, 1])

OPERATIONS = {
    "neg": lambda x: -x,
    "abs": torch.abs,
    "add scalar": lambda x: x + 2,
    "add dense": lambda x: x + OTHER,
    "dense add": lambda x: OTHER + x,
    "add alpha": lambda x: torch.add(x, x, alpha=3),
    "add broadcast": lambda x: x + x[:1],
    "rsub": lambda x: 1 - x,
    "sub self": lambda x: x - x,
    "mul": lambda x: x * OTHER,
    "div": lambda x: x / 3,
    "rdiv": lambda x: 1 / (1 + x),
    "floor divide": lambda x: x // 2,
    "pow": lambda x: x**2,
    "exp": torch.exp,
    "sigmoid": torch.sigmoid,
    "relu": F.relu,
    "gelu": F.gelu,
    "clamp": lambda x: x.clamp(0.25, 0.75),
    "lerp": lambda x: torch.lerp(x, OTHER, 0.3),
    "where": lambda x: torch.where(x > 0, OTHER, x),
    "eq": lambda x: x == 1,
    "gt": lambda x: x > OTHER,
    "logical not": torch.logical_not,
    "isnan": torch.isnan,
    "bool": lambda x: x.bool(),
    "long": lambda x: x.long(),
    "double": lambda x: x.double(),
    "half": lambda x: x.half(),
    "type as": lambda x: x.type_as(OTHER.double()),
    "sum": torch.sum,
    "sum over T": lambda x: x.sum(0),
    "sum keepdim": lambda x: x.sum((1, 3), keepdim=True),
    "mean": lambda x: x.mean((0, 1)),
    "var": lambda x: x.var(0),
    "norm": lambda x: x.norm(),
    "prod": lambda x: x.prod(2),
    "amax": lambda x: x.amax(-1),
    "max dim": lambda x: x.max(2),
    "argmax": lambda x: x.flatten(2).argmax(0),
    "any all": lambda x: (x.any(), x.all(0)),
    "count nonzero": lambda x: torch.count_nonzero(x, dim=0),
    "cumsum": lambda x: x.cumsum(0),
    "diff": lambda x: x.diff(dim=0),
    "softmax": lambda x: x.softmax(-1),
    "log softmax": lambda x: x.log_softmax(0),
    "logsumexp": lambda x: x.logsumexp(2),
    "matmul": lambda x: x @ WEIGHT.T,
    "rmatmul": lambda x: torch.ones(2, 4) @ x,
    "einsum": lambda x: torch.einsum("tbchw,nw->tbnch", x, WEIGHT),
    "tensordot": lambda x: torch.tensordot(x, WEIGHT, dims=([4], [1])),
    "bmm": lambda x: torch.bmm(x.flatten(0, 2), x.flatten(0, 2).transpose(1, 2)),
    "linear": lambda x: F.linear(x, WEIGHT),
    "conv2d": lambda x: F.conv2d(x.flatten(0, 1), KERNEL, padding=1),
    "conv transpose": lambda x: F.conv_transpose2d(x.flatten(0, 1), KERNEL.transpose(0, 1)),
    "max pool": lambda x: F.max_pool2d(x.flatten(0, 1), 2),
    "average pool": lambda x: F.avg_pool2d(x.flatten(0, 1), 2),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x.flatten(0, 1), 1),
    "interpolate": lambda x: F.interpolate(x.flatten(0, 1), scale_factor=2),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "unfold": lambda x: F.unfold(x.flatten(0, 1), 2),
    "batch norm": lambda x: F.batch_norm(x.flatten(0, 1), None, None, training=True),
    "layer norm": lambda x: F.layer_norm(x, (4, 5)),
    "dropout off": lambda x: F.dropout(x, 0.5, training=False),
    "mse": lambda x: F.mse_loss(x, OTHER),
    "cross entropy": lambda x: F.cross_entropy(x.flatten(1).flatten(0), torch.tensor(3)),
    "permute": lambda x: x.permute(4, 3, 2, 1, 0),
    "transpose": lambda x: x.transpose(1, 2),
    "movedim": lambda x: x.movedim(2, -1),
    "reshape": lambda x: x.reshape(3, -1),
    "view": lambda x: x.view(6, 12, 5),
    "view features": lambda x: x.view(3, 2, 5, 4, 3),
    "view one image": lambda x: x.view(1, 6, 60, 1, 1),
    "view lead": lambda x: x.view(-1, 3, 4, 5),
    "flatten": torch.flatten,
    "unflatten": lambda x: x.unflatten(3, (2, 2)),
    "squeeze unsqueeze": lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1),
    "expand": lambda x: x[:1].expand(4, -1, -1, -1, -1),
    "repeat": lambda x: x.repeat(2, 1, 1, 1, 2),
    "repeat interleave": lambda x: x.repeat_interleave(2, dim=1),
    "roll": lambda x: x.roll(1, 0),
    "flip": lambda x: x.flip(0, 4),
    "tril": torch.tril,
    "slice features": lambda x: x[..., 1:3],
    "select feature": lambda x: x[:, :, 1],
    "index mixed": lambda x: x[INDEX, :, 0, 1:],
    "index two": lambda x: x[INDEX, torch.tensor([1, 0, 1])],
    "gather": lambda x: x.gather(2, INDEX.view(1, 1, 3, 1, 1).expand(3, 2, 3, 4, 5)),
    "take": lambda x: x.take(torch.tensor([0, 7, 359])),
    "index select": lambda x: x.index_select(3, INDEX),
    "index select T": lambda x: x.index_select(0, INDEX),
    "masked select": lambda x: x.masked_select(OTHER > 0),
    "masked fill": lambda x: x.masked_fill(OTHER > 0, 5.0),
    "nonzero": torch.nonzero,
    "unique": lambda x: x.unique(return_counts=True),
    "sort": lambda x: x.sort(dim=-1, stable=True),
    "topk": lambda x: (x + OTHER).topk(2).values,
    "scatter add": lambda x: torch.zeros(3, 2, 3, 4, 5).scatter_add(0, x.long(), x),
    "index add": lambda x: torch.zeros_like(OTHER).index_add(0, INDEX, x),
    "copy into dense": lambda x: torch.zeros(3, 2, 3, 4, 5).copy_(x),
    "add into dense": lambda x: torch.ones(3, 2, 3, 4, 5).add_(x),
    "assign into dense": lambda x: assigned(x),
    "cat dense": lambda x: torch.cat([x, OTHER]),
    "cat features": lambda x: torch.cat([x, x], dim=2),
    "stack dense": lambda x: torch.stack([OTHER, x]),
    "stack inner": lambda x: torch.stack([x, x], dim=-1),
    "split features": lambda x: x.split(2, dim=3),
    "split sizes": lambda x: x.split([1, 2], dim=0),
    "chunk": lambda x: x.chunk(2, dim=4),
    "unbind features": lambda x: x.unbind(2),
    "zeros like": torch.zeros_like,
    "ones like": lambda x: torch.ones_like(x, dtype=torch.int32),
    "new ones": lambda x: x.new_ones(2, 2),
    "isclose": lambda x: torch.isclose(x, x + 1e-9),
    "allclose": lambda x: torch.tensor(torch.allclose(x, x.clone())),
    "vmap": lambda x: torch.vmap(lambda y: y.sum() * 2)(x),
    "foreach": lambda x: torch._foreach_mul([x, OTHER], 2.0),
    "item": lambda x: torch.tensor(x[0, 0, 0, 0, 0].item()),
}


def assigned(x):
    dense = torch.zeros(3, 2, 3, 4, 5)
    dense[:, 1] = x[:, 0]
    return dense


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("kind", ["spikes", "counts"])
def test_any_operator_sees_the_dense_tensor(name, kind):
    dense = spikes((3, 2, 3, 4, 5))
    packed = SpikeTensor.from_dense(dense)
    if kind == "counts":
        other = spikes((3, 2, 3, 4, 5), seed=9)
        packed, dense = packed + SpikeTensor.from_dense(other), dense + other
    operation = OPERATIONS[name]
    compare(operation(packed), operation(dense))


def compare(value, reference):
    if isinstance(reference, (tuple, list)):
        assert len(value) == len(reference)
        for v, r in zip(value, reference, strict=True):
            compare(v, r)
        return
    value = dense_of(value)
    assert type(value) is Tensor
    assert value.dtype == reference.dtype
    assert value.shape == reference.shape
    assert torch.equal(value, reference)


DIFFERENTIABLE = [
    "neg", "add dense", "mul", "pow", "sigmoid", "where", "sum over T", "mean", "cumsum",
    "softmax", "matmul", "einsum", "linear", "conv2d", "average pool", "batch norm", "permute",
    "reshape", "expand", "flip", "slice features", "index mixed", "index select T", "gather",
    "view features", "cat dense", "stack dense", "cat features", "unbind features", "view lead",
    "split sizes",
]  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_through_any_operator(name):
    dense = spikes((3, 2, 3, 4, 5)).requires_grad_()
    packed = SpikeTensor.from_dense(dense).requires_grad_()
    grads = []
    for x in (packed, dense):
        outputs = OPERATIONS[name](x)
        outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        weights = [torch.linspace(-1, 1, y.numel()).view(y.shape) for y in outputs]
        loss = sum((y * w).sum() for y, w in zip(outputs, weights, strict=True))
        grads.append(torch.autograd.grad(loss, x)[0])
    assert torch.equal(dense_of(grads[0]), grads[1])
