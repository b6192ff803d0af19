"""The pictures of the docs: the status page over 4 and over 1,000 nodes, with claims made through the API.

python -m tests.browser.screenshots [FOLDER]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # as pytest does

from browser import chromium  # noqa: E402
from browser.program import Program, crowded  # noqa: E402
from browser.reader import Reader  # noqa: E402

DOCS = ROOT / "docs" / "images"
SETTLED_SECONDS = 3.0  # fresh rows have faded by then


def main(arguments: list[str]) -> int:
    missing = chromium.missing()
    if missing:
        sys.stderr.write(f"{missing}\n")
        return 1
    folder = Path(arguments[0]) if arguments else DOCS
    folder.mkdir(parents=True, exist_ok=True)
    with chromium.browser() as driver:
        camera = Camera(Reader(driver), folder)
        with_crowd(camera.of_few, nodes=4, games=14)
        with_crowd(camera.of_many, nodes=1000, games=12)
    return 0


def with_crowd(take: Callable[[Program], None], *, nodes: int, games: int) -> None:
    with TemporaryDirectory() as folder, crowded(Path(folder), nodes=nodes, games=games) as (program, _):
        take(program)


class Camera:
    """Takes each picture."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self._reader = reader
        self._folder = folder

    def of_few(self, program: Program) -> None:
        self._take(program, "status-4-nodes", 1280, 1000)
        self._take(program, "status-4-nodes-dark", 1280, 1000, dark=True, query="?open=worker-0")
        self._take(program, "status-phone", 390, 844, scale=2, query="?open=worker-0")
        self._take(program, "status-phone-dark", 390, 844, scale=2, dark=True, query="?state=RESERVED#claims")

    def of_many(self, program: Program) -> None:
        self._take(program, "status-1000-nodes", 1280, 1000)
        self._take(program, "status-1000-nodes-dark", 1280, 1000, dark=True)

    def _take(
        self,
        program: Program,
        name: str,
        width: int,
        height: int,
        *,
        dark: bool = False,
        scale: float = 1,
        query: str = "",
    ) -> None:
        path = self._folder / f"{name}.png"
        chromium.show(self._reader.driver, width, height, dark=dark, scale=scale)
        self._reader.open(program, query)
        time.sleep(SETTLED_SECONDS)
        chromium.picture(self._reader.driver, path)
        self._reader.leave()
        _squeeze(path)
        sys.stdout.write(f"{path.name}: {path.stat().st_size // 1024} KiB\n")


def _squeeze(path: Path) -> None:
    program = shutil.which("pngquant")
    if program:
        flags = ["--force", "--skip-if-larger", "--quality", "70-95", "--strip", "--output", str(path)]
        subprocess.run([program, *flags, "128", str(path)], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
