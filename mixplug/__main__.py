"""``python -m mixplug``: the command, where its script is not on the path."""

from __future__ import annotations

import sys

from mixplug.lab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
