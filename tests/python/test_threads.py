"""Results do not depend on the number of threads, nor on which thread of Python asks."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import h2learn
import pytest
import torch
import torch.nn.functional as F
import workloads
from h2learn import _core, nn, ops
from h2learn.kernels import KERNELS, set_kernel
from h2learn.surrogate import ATan
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


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


class Currents(Dataset):
    """A layer's currents, computed by whoever asks for them."""

    def __init__(self, layer: nn.Conv2d, samples: list[h2learn.SpikeTensor]) -> None:
        self.layer = layer
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        return self.layer(self.samples[index]).detach()


@pytest.mark.skipif(sys.platform != "linux", reason="fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_run_in_workers_of_a_data_loader(kernel):
    """Forked ones, after the parent's kernels had threads, which a fork does not copy."""
    torch.set_num_threads(2)
    layer = nn.Conv2d(8, 16, 3, kernel=kernel)
    dense = (torch.rand(4, 3, 1, 8, 20, 20) < 0.2).float()
    task = Currents(layer, [h2learn.SpikeTensor.from_dense(sample) for sample in dense])
    expected = [task[i] for i in range(len(task))]
    workers = DataLoader(
        task, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=120
    )
    for currents, reference in zip(workers, expected, strict=True):
        assert torch.equal(currents, reference)


def train(workload: workloads.Workload, start: threading.Barrier | None = None) -> list[Tensor]:
    """Losses and final weights of some steps of Adam."""
    optimizer = torch.optim.Adam(workload.model.parameters(), lr=1e-2)
    losses = []
    if start is not None:
        start.wait()
    for _ in range(8):
        loss = F.cross_entropy(workload.model(workload.inputs), workload.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [torch.stack(losses), *(p.detach() for p in workload.model.parameters())]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("threads", [1, 2])
def test_two_trainings_at_once_are_those_one_after_the_other(kernel, threads):
    """Two threads of Python, each with a model, an optimiser and threads of OpenMP of its own."""

    def tasks() -> list[workloads.Workload]:
        torch.manual_seed(1)
        made = [workloads.b(steps=5, batch=3, side=26), workloads.a(batch=7, width=0.25)]
        for task in made:
            set_kernel(task.model, kernel)
        return made

    torch.set_num_threads(threads)
    expected = [train(task) for task in tasks()]
    start = threading.Barrier(2)
    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        together = list(pool.map(lambda task: train(task, start), tasks()))
    for results, references in zip(together, expected, strict=True):
        assert results[0][0] > results[0][-1]  # it learned
        for value, reference in zip(results, references, strict=True):
            assert torch.equal(value, reference)


CONV = list(ops.geometry(16, (16, 16), 16, (3, 3), padding=(1, 1)))
POOL = [16, 16, 16, 3, 3, 1, 1]
SOMA = (False, "hard", True, False, "rect", 0.5, 1.0)
WEIGHT = torch.ones(16, 16, 3, 3)
HALF = torch.tensor(0.5)


def spikes(rows: int) -> Tensor:
    return torch.full((1, rows, 64), -1, dtype=torch.int64)


def values(rows: int) -> Tensor:
    return torch.ones(rows, 256, 16)


# Each takes some hundredths of a second on the scalar target.
LONG_CALLS = {
    "pack": (ops.pack, lambda: [values(4000).flatten(1)]),
    "unpack": (ops.unpack, lambda: [spikes(2000), 4096, 1.0]),
    "transpose": (ops.transpose_features, lambda: [spikes(8000), 256, 16, False]),
    "forward": (ops.forward_packed, lambda: [spikes(32), 1.0, WEIGHT, None, CONV, "auto"]),
    "forward, analog": (ops.forward_dense, lambda: [values(32), WEIGHT, None, CONV, "auto"]),
    "backward": (ops.backward, lambda: [values(32), WEIGHT, None, CONV, "auto"]),
    "weight update": (
        ops.weight_update_packed, lambda: [spikes(32), 1.0, values(32), CONV, "auto"]),
    "weight update, analog": (
        ops.weight_update_dense, lambda: [values(32), values(32), CONV, "auto"]),
    "bias update": (ops.bias_update, lambda: [values(2000)]),
    "soma": (ops.soma_forward, lambda: [
        values(2000).view(8, 250, 4096), None, HALF, HALF, *SOMA, True, False, False]),
    "soma, backward": (ops.soma_backward, lambda: [
        values(2000).view(8, 250, 4096), None, *[spikes(2000).view(8, 250, 64)] * 2, None, None,
        None, HALF, HALF, *SOMA, False, False, False]),
    "average pool": (ops.count_pool, lambda: [spikes(1000)[0], POOL]),
    "average pool, backward": (ops.average_pool_backward, lambda: [
        torch.ones(500, 14 * 14 * 16), POOL]),
    "maximum pool": (ops.max_pool, lambda: [spikes(1000)[0], POOL]),
    "maximum pool, backward": (ops.max_pool_backward, lambda: [
        spikes(500)[0], torch.ones(500, 14 * 14 * 16), POOL]),
}  # fmt: skip


@pytest.mark.parametrize("name", LONG_CALLS)
def test_kernels_let_other_threads_of_python_run(name):
    """While one thread is in the middle of a kernel, another one executes Python."""
    _core.set_target("scalar")
    call, make = LONG_CALLS[name]
    arguments = make()

    def timed() -> tuple[float, float]:
        begin = time.perf_counter()
        call(*arguments)
        return begin, time.perf_counter()

    def ran_beside() -> bool:
        ticks = []
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(timed)
            while not running.done():
                ticks.append(time.perf_counter())
                time.sleep(1e-4)
        begin, end = running.result()
        return any(begin + 0.3 * (end - begin) < t < end - 0.3 * (end - begin) for t in ticks)

    assert any(ran_beside() for _ in range(20))  # once is proof; a busy machine may need a few
