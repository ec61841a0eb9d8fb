"""The Composer Algorithms; their public names stand in ``mixplug/__init__.pyi`` alone."""

import platform
from importlib.util import find_spec

if find_spec("composer") is None:
    raise ImportError(
        f"mixplug's algorithms need Composer, which is not installed on this Python {platform.python_version()}: "
        "run `pip install mixplug` with Python 3.10 to 3.12; the rest of mixplug, for plain loops, works without it",
        name="composer",
    )

from mixplug.algorithms.trainer.checkpoints import guard_loading

guard_loading()
