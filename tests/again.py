"""Runs a verb, and once more what failed of it: python tests/again.py make e2e

CI's machine is used by others, too, and a test with real processes and sockets now and then meets their load. What
passes the second time has met it; both runs are printed, so that it is seen. What fails twice is broken, and so is what
fails without a test: the second run has none then.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

FAILED_ONLY = "--last-failed --last-failed-no-failures=none -rA"


def passes(command: Sequence[str]) -> bool:
    """Whether it passes, the first time or the second. `command`: its last word is the verb."""
    began = time.monotonic()
    try:
        return _passes(command)
    finally:
        sys.stdout.write(f"{command[-1]} took {time.monotonic() - began:.0f} s\n")
        sys.stdout.flush()


def _passes(command: Sequence[str]) -> bool:
    cache = f"-o cache_dir=.pytest_cache/{command[-1]}"  # of its own: verbs are run side by side
    if _run(command, f"{cache} --durations=10"):
        return True
    sys.stdout.write(f"Once more, what failed of {command[-1]}:\n")
    sys.stdout.flush()
    return _run(command, f"{cache} {FAILED_ONLY}")


def _run(command: Sequence[str], options: str) -> bool:
    return subprocess.run(command, check=False, env={**os.environ, "PYTEST_ADDOPTS": options}).returncode == 0


if __name__ == "__main__":
    raise SystemExit(0 if passes(sys.argv[1:]) else 1)
