"""What a result was measured with: versions and machine."""

from __future__ import annotations

import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import mixplug


def describe_environment() -> dict[str, Any]:
    """Versions, machine and date, as primitives."""
    return {
        "versions": {
            "mixplug": mixplug.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("mosaicml", "torch", "timm", "numpy")},
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "date": date.today().isoformat(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
