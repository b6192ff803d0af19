"""Objects as a real API server sent them, in both encodings; `tests/e2e/test_lists.py` records them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testing.encoding import by_name, by_number, fields_in, filled, known_fields

RECORDING = Path(__file__).resolve().parents[1] / "tests" / "testdata" / "kubernetes" / "objects.json"

Answers = Mapping[str, Mapping[str, Any]]


def assert_same(answers: Answers) -> None:
    """What stands in the JSON stands in the protobuf by our numbers, and every field that we read is there somewhere.

    A key is the kind, and what tells two objects of it apart.
    """
    known, seen = set(), set()
    for key, answer in answers.items():
        kind = key.partition(" ")[0]
        named, numbered = by_name(kind, answer["json"]), by_number(kind, base64.b64decode(answer["protobuf"]))
        assert filled(numbered) == filled(named), key
        known |= set(known_fields(numbered.DESCRIPTOR))
        seen |= set(fields_in(named))
    assert known - seen == set()


def recorded() -> Answers:
    answers: Answers = json.loads(RECORDING.read_text(encoding="utf-8"))
    return answers
