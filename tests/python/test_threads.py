"""Results do not depend on the number of threads, nor on which thread of Python asks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
import workloads
from h2learn import _core, nn
from h2learn.kernels import KERNELS, set_kernel
from h2learn.surrogate import ATan


def run(workload: workloads.Workload) -> list[torch.Tensor]:
    workload.model.zero_grad()
    inputs = workload.inputs.detach().requires_grad_()
    loss = F.cross_entropy(workload.model(inputs), workload.labels)
    loss.backward()
    return [loss.detach(), inputs.grad, *(p.grad.clone() for p in workload.model.parameters())]


SIZES = {
    "a": lambda: workloads.a(batch=7),
    "b": lambda: workloads.b(steps=5, batch=3, side=26),
    "c": lambda: workloads.c(steps=3, width=0.125, side=16),
    "b, learned": lambda: workloads.b(
        lambda: nn.LIF(0.5, 1.0, surrogate=ATan(), learn_decay=True, learn_threshold=True),
        steps=5, batch=3, side=26,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", [*SIZES, *workloads.LARGE])
def test_same_bits_on_any_number_of_threads(name, kernel):
    workload = {**SIZES, **workloads.LARGE}[name]()
    set_kernel(workload.model, kernel)
    torch.set_num_threads(1)
    expected = run(workload)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        for value, reference in zip(run(workload), expected, strict=True):
            assert torch.equal(value, reference)


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_decides_how_many(threads):
    torch.set_num_threads(threads)
    assert _core.max_threads() == threads


def test_models_in_several_threads_of_python():
    """Kernels release the interpreter; two models trained at once do not see each other."""
    torch.set_num_threads(1)
    tasks = [workloads.b(steps=4, batch=2, side=22) for _ in range(4)]
    expected = [run(task) for task in tasks]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for results, references in zip(pool.map(run, tasks), expected, strict=True):
                for value, reference in zip(results, references, strict=True):
                    assert torch.equal(value, reference)
