"""What holds in every test."""

from __future__ import annotations

import atexit
import os
import sys
from importlib.util import find_spec

# Processes share the cores: tiny tensors are faster on one thread, which torch reads here when it is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Composer asks a service on the network for a newer version unless told not to.
os.environ.setdefault("MOSAICML_PLATFORM", "false")

import hypothesis
import pytest
import torch

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy machine")

WITH_COMPOSER = ["algorithms", "lab", "test_readme.py"]
collect_ignore = [] if find_spec("composer") else WITH_COMPOSER


def pytest_report_header() -> str | None:
    return f"without Composer, so without the tests of {', '.join(collect_ignore)}" if collect_ignore else None


@pytest.fixture(autouse=True)
def _one_thread_and_default_dtype():
    """No test may leave another number of threads or default dtype behind."""
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def _let_go_of_trainers():
    """Composer's exit hooks would keep what every Trainer of every test has until the process ends."""
    yield
    if "composer" in sys.modules:
        from composer.core import Engine

        atexit.unregister(Engine._close)
