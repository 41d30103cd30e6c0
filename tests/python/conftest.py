"""Settings and fixtures that every test file shares."""

from __future__ import annotations

import os

import pytest
import torch
from h2learn import _core
from hypothesis import HealthCheck, settings

# "ci" is bounded and repeatable; HYPOTHESIS_PROFILE=deep looks further, from a new seed each time.
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=100,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile(
    "deep", parent=settings.get_profile("ci"), max_examples=2000, derandomize=False
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def repeatable():
    """Same seed before each test; after it threads and instruction set as they were."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    _core.set_target("auto")
