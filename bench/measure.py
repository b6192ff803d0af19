"""Measuring by alternation: ours, bare, ours, bare. What disturbs the machine then disturbs both.

A row is the ratio of two medians. Its spread is where the ratio of another run would be in 19 of 20 cases, as far as
the ratios of single rounds tell, in which ours and the bare thing were measured one right after the other: Student's t
for the difference of two means. What the machine does to a whole run is not in it.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parent / "out"
PACKAGES = ("grpcio", "protobuf", "tornado", "uvloop")


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement, and what was seen beside it."""

    value: float
    beside: dict[str, float] = field(default_factory=dict)


_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""The 97.5 % quantiles of Student's t with 1 to 9 degrees of freedom."""

Arm = Callable[[], Sample]
"""Measures once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. `aim` is about the ratio; `beside` is one remark for people."""

    bench: str
    what: str
    unit: str
    ours: list[Sample]
    bare: list[Sample]
    aim: str = ""
    beside: str = ""
    is_paired: bool = False
    """Many short rounds: the ratio is the median of theirs."""

    @property
    def ratio(self) -> float:
        if self.is_paired:
            return statistics.median(self._ratios())
        return median(self.ours) / median(self.bare)

    def _ratios(self) -> list[float]:
        return [ours.value / bare.value for ours, bare in zip(self.ours, self.bare, strict=True)]

    @property
    def spread(self) -> tuple[float, float] | None:
        """None: one round tells of none."""
        ratios = self._ratios()
        rounds = len(ratios)
        if rounds < 2:
            return None
        t = _STUDENT[min(rounds - 2, len(_STUDENT) - 1)] * math.sqrt(2 / rounds)
        if min(ratios) <= 0:  # what grows by so many bytes may shrink
            width = t * statistics.stdev(ratios)
            return self.ratio - width, self.ratio + width
        factor = math.exp(t * statistics.stdev(map(math.log, ratios)))
        return self.ratio / factor, self.ratio * factor


def alternate(rounds: int, ours: Arm, bare: Arm) -> tuple[list[Sample], list[Sample]]:
    """Ours and bare in turns. Every second round begins with bare, so that no side always comes first."""
    of_ours: list[Sample] = []
    of_bare: list[Sample] = []
    for number in range(rounds):
        for arm, samples in ((ours, of_ours), (bare, of_bare))[:: -1 if number % 2 else 1]:
            samples.append(arm())
    return of_ours, of_bare


def median(samples: Iterable[Sample], beside: str = "") -> float:
    """The median of the values, or of something seen beside them."""
    return statistics.median(s.beside[beside] if beside else s.value for s in samples)


# -- out


def markdown(rows: Iterable[Row]) -> str:
    head = ("what", "ours", "bare", "ratio", "spread", "aim", "beside")
    lines = [head, tuple("-" * len(cell) for cell in head), *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width, "-" if cell.startswith("--") else " ") for cell, width in zip(line, widths, strict=True)
        )
        + " |"
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    spread = row.spread
    return (
        row.what,
        f"{_number(median(row.ours))} {row.unit}",
        f"{_number(median(row.bare))} {row.unit}",
        f"{row.ratio:.2f}",
        f"{spread[0]:.2f} to {spread[1]:.2f}" if spread else "once",
        row.aim,
        row.beside,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write_json(rows: Iterable[Row], options: dict[str, Any]) -> Path:
    """Everything that was measured, with where and when."""
    now = dt.datetime.now(dt.UTC)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{now:%Y%m%dT%H%M%SZ}.json"
    record = {
        "date": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "options": options,
        "rows": [asdict(row) | {"ratio": row.ratio, "spread": row.spread} for row in rows],
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
