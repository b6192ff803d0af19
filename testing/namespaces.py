"""Runs a few lines of Python in a network namespace of their own, where this is allowed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[1]
UP = "from testing.loopback import bring_loopback_up; bring_loopback_up()\n"

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="a network namespace needs root and unshare"
)


def in_a_network_namespace(lines: str) -> list[str]:
    """What the lines print. The loopback device is up."""
    run = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", UP + dedent(lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()
