"""The pool of large tensors: right tensors, memory used again, nothing held that is not needed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
import workloads
from h2learn import SpikeTensor, memory, nn

MIB = 1 << 20


@pytest.fixture(autouse=True)
def empty_pool():
    gc.collect()
    memory.release()
    yield
    gc.collect()
    memory.release()


def in_use() -> int:
    return memory.statistics()["in_use_bytes"]


@pytest.mark.parametrize(
    "shape", [(), (0,), (3, 0, 5), (7,), (2, 3, 4), (513, 1025), (2, 512, 1024)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_tensors_are_ordinary(shape, dtype):
    tensor = memory.empty(shape, dtype)
    assert tensor.shape == shape
    assert tensor.dtype == dtype
    assert tensor.is_contiguous()
    assert not tensor._is_view()
    tensor.fill_(3)
    assert (tensor + 1 == 4).all()


def test_memory_is_used_again_and_freed_with_its_last_user():
    before = in_use()
    tensor = memory.empty((3 * MIB,))
    address, part = tensor.data_ptr(), tensor[100:200]
    assert in_use() >= before + 12 * MIB
    del tensor
    gc.collect()
    assert in_use() >= before + 12 * MIB  # `part` still lives in it
    del part
    assert in_use() == before
    assert memory.empty((3 * MIB,)).data_ptr() == address


def test_small_tensors_are_torch_s():
    before = in_use()
    kept = memory.empty((memory.POOLED_FROM_BYTES // 4 - 1,))
    assert in_use() == before
    assert kept.numel()


def test_a_training_step_frees_what_it_took_and_the_next_takes_no_more():
    workload = workloads.b(steps=8, batch=16, side=34)

    def step() -> None:
        workload.model.zero_grad()
        F.cross_entropy(workload.model(workload.inputs), workload.labels).backward()

    step()
    workload.model.zero_grad()
    gc.collect()
    assert in_use() == 0
    highest = memory.statistics()["highest_bytes"]
    assert highest > MIB
    for _ in range(3):
        step()
    statistics = memory.statistics()
    assert statistics["highest_bytes"] == highest
    assert statistics["in_use_bytes"] + statistics["free_bytes"] <= highest * 3 // 2


def test_kernels_keep_their_scratch():
    layer = nn.Linear(600, 700)
    layer(torch.ones(2, 3, 600))
    first = memory.statistics()["scratch_bytes"]
    assert first > 0
    layer(torch.ones(2, 3, 600))
    assert memory.statistics()["scratch_bytes"] == first


@pytest.mark.parametrize(
    "change",
    [
        lambda w, layer: torch.optim.SGD(layer.parameters(), lr=0.1).step(),
        lambda w, layer: torch.optim.AdamW(layer.parameters(), foreach=True).step(),
        lambda w, layer: w.data.mul_(2),
        lambda w, layer: w.detach().numpy().__imul__(2),
        lambda w, layer: setattr(w, "data", w.data * 2),
        lambda w, layer: layer.load_state_dict({"weight": w.detach() * 2}),
    ],
    ids=["sgd", "adamw", "data", "numpy", "another", "state"],
)
def test_packed_weights_that_are_kept_follow_their_parameter(change):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 12, 3, padding=1, bias=False)
    spikes = (torch.rand(2, 1, 8, 9, 9) < 0.3).float()
    packed = SpikeTensor.from_dense(spikes)
    memory.release()
    layer(packed).sum().backward()
    assert memory.statistics()["weights_bytes"] > 0
    before = layer.weight.detach().clone()
    with torch.no_grad():
        change(layer.weight, layer)
        assert not torch.equal(layer.weight, before)
        kept = layer(packed)
        memory.release()
        assert memory.statistics()["weights_bytes"] == 0
        assert torch.equal(kept, layer(packed))
        expected = F.conv2d(spikes.flatten(0, 1), layer.weight, padding=1).unflatten(0, (2, 1))
        torch.testing.assert_close(kept, expected)


def test_release_gives_free_memory_back():
    del_me = memory.empty((MIB,))
    del del_me
    assert memory.statistics()["free_bytes"] >= 4 * MIB
    memory.release()
    assert memory.statistics()["free_bytes"] == 0


def test_in_place_operators_and_saving(tmp_path):
    tensor = memory.empty((MIB,)).zero_()
    tensor += 1
    tensor.mul_(2).clamp_(0, 1)
    torch.save(tensor, tmp_path / "t.pt")
    assert torch.equal(torch.load(tmp_path / "t.pt", weights_only=True), tensor)
    assert torch.equal(tensor.clone(), tensor)


@pytest.mark.skipif(sys.platform != "linux", reason="fork")
def test_a_forked_child_allocates():
    held = memory.empty((MIB,))
    child = os.fork()
    if child == 0:
        try:
            memory.empty((2 * MIB,)).numpy()[:] = 1  # torch's threads do not survive a fork
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert held.numel() == MIB


def test_a_tensor_that_no_memory_holds():
    before = memory.statistics()
    with pytest.raises(MemoryError, match=r"no memory for a tensor of \d+ bytes.*fewer samples"):
        memory.empty((1 << 57,))
    assert memory.statistics() == before


SCRATCH_THAT_DOES_NOT_FIT = """
import resource

import torch
from h2learn import SpikeTensor, nn

torch.set_num_threads(1)
torch.manual_seed(0)
large = nn.Linear(4096, 4096)  # 64 MiB, packed into as much scratch for more than 224 images
many = SpikeTensor.from_dense((torch.rand(1, 256, 4096) < 0.1).float())
small, few = nn.Linear(64, 64), torch.rand(2, 2, 64)
with torch.no_grad():
    expected = small(few)
    with open("/proc/self/statm") as file:
        in_use = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (32 << 20), hard))
    try:
        large(many)
    except MemoryError as error:
        print(error)
    assert torch.equal(small(few), expected)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    reference = many.to_dense() @ large.weight.T + large.bias
    assert torch.allclose(large(many), reference, rtol=1e-4, atol=1e-4)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS, /proc")
def test_scratch_that_no_memory_holds():
    """One clear error; then the library goes on, with less and with more memory."""
    outcome = subprocess.run(
        [sys.executable, "-c", SCRATCH_THAT_DOES_NOT_FIT],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith("no memory for a kernel's scratch of ")
    assert "fewer samples or timesteps" in outcome.stdout
