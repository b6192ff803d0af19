"""A look for garbage goes through what was made since the program serves, not through the program."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import gc
import importlib, sys
importlib.import_module(sys.argv[1])
from hostport import process
before = len(gc.get_objects())
process.freeze()
print(before, len(gc.get_objects()), gc.get_threshold()[0])
"""


@pytest.mark.parametrize("program", ["allocator.app.lifecycle", "shim.runtime"])
def test_what_a_program_is_made_of_is_not_looked_through(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", COUNT, program], capture_output=True, text=True, check=True)
    before, after, threshold = map(int, done.stdout.split())

    assert before > 20_000
    assert after < 100
    assert threshold == 5000
