"""torch.library.opcheck on every operator of torch.ops.h2learn."""

from __future__ import annotations

import pytest
import torch
from h2learn import SpikeTensor, datapath, ops
from torch import Tensor


def words(*shape: int, features: int = 0, rate: float = 0.4) -> Tensor:
    """Valid words [*shape, W] for rows of `features` bits."""
    dense = (torch.rand(*shape, features) < rate).float()
    return SpikeTensor.from_dense(dense, lead=len(shape)).words[0]


# 3 images of 5 channels, 6 x 7; 4 outputs, 3 x 3 with stride (1, 2); 5 x 3 = 15 output positions.
CONV = list(ops.geometry(5, (6, 7), 4, (3, 3), (1, 2), (1, 0), (1, 1), 1))
ROWS, IN, POSITIONS, OUT = 3, 210, 18, 4
POOL = [5, 6, 7, 2, 2, 2, 2]
POOLED = 5 * 3 * 3
FORWARD_ARRAY, UPDATE_ARRAY = [4, 3, 1], [4, 3, 1, 2, 1000, 2, 0]
SOMA = (False, "hard", False, False, "triangle", 0.5, 1.0)


def scalar(value: float) -> Tensor:
    return torch.tensor(value)


def soma_backward(
    initial: bool, mask: bool, membrane: bool, currents: bool, wants: tuple, pool: bool = False
) -> tuple:
    shape = (3, 2, 70)
    windows = [5, 2, 7, 2, 2, 2, 2] if pool else None
    return (
        torch.randn(3, 2, 15 if pool else 70), torch.randn(2, 70) if initial else None,
        words(3, 2, features=70), words(3, 2, features=70) if mask else None,
        torch.rand(shape) if membrane else None, torch.rand(shape) if currents else None,
        torch.rand(2, 70) if initial else None, scalar(0.5), scalar(0.3),
        False, "hard", False, currents, "triangle", 0.5, 1.0, *wants, windows,
    )  # fmt: skip


def fused(steps: int, affine: bool, initial: bool, keep: tuple) -> tuple:
    """What both fused operators take behind their inputs."""
    batch, features = ROWS // steps, POSITIONS * OUT
    return (
        torch.randn(4, 5, 3, 3), torch.randn(4) if initial else None, CONV, "auto",
        torch.rand(4) if affine else None, torch.rand(4) if affine else None, steps, batch,
        torch.rand(batch, features) if initial else None, scalar(0.5), scalar(0.3), *SOMA, *keep,
    )  # fmt: skip


EXAMPLES = {
    "pack": [lambda: ((torch.rand(3, 70) < 0.4).float(),), lambda: (torch.zeros(0, 70),)],
    "pack_nonzero": [lambda: (torch.randn(3, 70).relu(),), lambda: (torch.zeros(0, 70),)],
    "unpack": [
        lambda: (words(1, 3, features=70), 70, 1.0),
        lambda: (words(3, 2, features=64), 64, 0.25),
    ],
    "transpose_features": [
        lambda: (words(1, 3, features=210), 42, 5, False),
        lambda: (words(2, 3, features=210), 42, 5, True),
    ],
    "forward_packed": [
        lambda: (words(1, ROWS, features=IN), 1.0, torch.randn(4, 5, 3, 3), None, CONV, "auto"),
        lambda: (
            words(2, ROWS, features=IN), 0.25, torch.randn(4, 5, 3, 3), torch.randn(4), CONV, "lut"
        ),
    ],
    "forward_dense": [
        lambda: (torch.randn(ROWS, IN), torch.randn(4, 5, 3, 3), None, CONV, "auto"),
        lambda: (torch.randn(ROWS, IN), torch.randn(4, 5, 3, 3), torch.randn(4), CONV, "event"),
    ],
    "backward": [
        lambda: (torch.randn(ROWS, POSITIONS, OUT), torch.randn(4, 5, 3, 3), None, CONV, "auto"),
        lambda: (
            torch.randn(ROWS, POSITIONS, OUT), torch.randn(4, 5, 3, 3), words(ROWS, features=IN),
            CONV, "event",
        ),
    ],
    "weight_update_packed": [
        lambda: (words(1, ROWS, features=IN), 1.0, torch.randn(ROWS, POSITIONS, OUT), CONV, "auto"),
        lambda: (words(2, ROWS, features=IN), 0.5, torch.randn(ROWS, POSITIONS, OUT), CONV, "lut"),
    ],
    "weight_update_dense": [
        lambda: (torch.randn(ROWS, IN), torch.randn(ROWS, POSITIONS, OUT), CONV, "auto"),
    ],
    "bias_update": [lambda: (torch.randn(ROWS, POSITIONS, OUT),)],
    "hardware_forward_packed": [
        lambda: (
            words(2, ROWS, features=IN), 0.5, torch.randn(4, 5, 3, 3), torch.randn(4), CONV, "fp16",
            FORWARD_ARRAY,
        ),
    ],
    "hardware_forward_dense": [
        lambda: (
            torch.randn(ROWS, IN), 8, torch.randn(4, 5, 3, 3), None, CONV, "bf16", FORWARD_ARRAY
        ),
    ],
    "hardware_backward": [
        lambda: (torch.randn(ROWS, POSITIONS, OUT), torch.randn(4, 5, 3, 3), None, CONV, "fp32"),
        lambda: (
            torch.randn(ROWS, POSITIONS, OUT), torch.randn(4, 5, 3, 3), words(ROWS, features=IN),
            CONV, "fp16",
        ),
    ],
    "hardware_update_packed": [
        lambda: (
            words(1, ROWS, features=IN), 1.0, torch.randn(ROWS, POSITIONS, OUT), 3, CONV, "fp16",
            UPDATE_ARRAY,
        ),
    ],
    "hardware_update_dense": [
        lambda: (
            torch.rand(1, IN), 8, torch.randn(ROWS, POSITIONS, OUT), 3, CONV, "fp32", UPDATE_ARRAY
        ),
    ],
    "fused_forward_packed": [
        lambda: (words(1, ROWS, features=IN), 1.0, *fused(3, False, False, (True, True, True))),
        lambda: (words(2, ROWS, features=IN), 0.5, *fused(1, True, True, (False, False, False))),
    ],
    "fused_forward_dense": [
        lambda: (torch.randn(ROWS, IN), *fused(3, True, True, (True, True, True))),
        lambda: (torch.randn(1, IN), *fused(3, False, False, (True, False, False))),
    ],
    "soma_forward": [
        lambda: (torch.rand(3, 2, 70), None, scalar(0.5), scalar(0.3), *SOMA, True, True, True),
        lambda: (
            torch.rand(3, 2, 70), torch.rand(2, 70), scalar(0.5), scalar(0.3), *SOMA,
            False, False, False,
        ),
    ],
    "soma_backward": [
        lambda: soma_backward(True, True, True, True, (True, True, True)),
        lambda: soma_backward(False, False, True, False, (False, False, False)),
        lambda: soma_backward(False, True, True, False, (False, True, False), pool=True),
    ],
    "count_pool": [lambda: (words(ROWS, features=IN), POOL)],
    "max_pool": [lambda: (words(ROWS, features=IN), POOL)],
    "average_pool_backward": [lambda: (torch.randn(ROWS, POOLED), POOL)],
    "max_pool_backward": [lambda: (words(ROWS, features=IN), torch.randn(ROWS, POOLED), POOL)],
}  # fmt: skip


def operators() -> set[str]:
    assert datapath.__all__  # importing it registers its operators
    names = torch._C._dispatch_get_all_op_names()
    return {name.removeprefix("h2learn::") for name in names if name.startswith("h2learn::")}


def test_every_operator_has_an_example():
    assert operators() == set(EXAMPLES)


@pytest.mark.parametrize(
    ("name", "example"), [(name, i) for name in EXAMPLES for i in range(len(EXAMPLES[name]))]
)
def test_opcheck(name, example):
    operator = getattr(torch.ops.h2learn, name)
    outcome = torch.library.opcheck(operator.default, EXAMPLES[name][example]())
    assert set(outcome.values()) == {"SUCCESS"}
    assert len(outcome) >= 4
