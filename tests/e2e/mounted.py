"""Secrets as files, as a kubelet mounts them: late, all files at once, by a symbolic link that is swapped."""

from __future__ import annotations

import base64
import contextlib
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from e2e.api import Https
from e2e.processes import repeating, wait_until

PACE = 0.2


class Mount:
    """`versions` has every content that was shown, in its order."""

    def __init__(self, api: Https, secret: str, folder: Path, *, lag: float) -> None:
        self._api, self._path, self._lag = api, secret, lag
        self.folder = folder
        self._coming: deque[tuple[float, dict[str, str]]] = deque()
        self.versions: list[dict[str, str]] = []

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Follows the Secret until the context ends; begins when it is there."""
        self.folder.mkdir()
        with repeating("kubelet", PACE, self.look):
            wait_until("the Secret to be mounted", lambda: self.versions != [], seconds=30)
            yield

    def look(self) -> None:
        data = self.content()
        if data is not None and (not self._coming or self._coming[-1][1] != data):
            self._coming.append((time.monotonic() + (self._lag if self.versions else 0), data))
        while self._coming and self._coming[0][0] <= time.monotonic():
            data = self._coming[0][1]
            if not self.versions or self.versions[-1] != data:
                self._show(data)
            if len(self._coming) == 1:
                return
            self._coming.popleft()

    def content(self) -> dict[str, str] | None:
        """What is to be shown by now, as base64; None: it is not there."""
        answer = self._api.ask("GET", self._path)
        return dict(answer.json["data"]) if answer.status == 200 else None

    def _show(self, data: dict[str, str]) -> None:
        content = self.folder / f"..{len(self.versions)}"
        content.mkdir()
        for name, value in data.items():
            (content / name).write_bytes(base64.b64decode(value))
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        (self.folder / "..new").symlink_to(content.name)
        (self.folder / "..new").replace(self.folder / "..data")
        self.versions.append(data)


class Projected(Mount):
    """A projected volume of optional Secrets, each with its items: what is absent is left out."""

    def __init__(self, api: Https, secrets: str, sources: list[Any], folder: Path, *, lag: float) -> None:
        """`secrets` is where the API server has them, `sources` as in a Pod."""
        super().__init__(api, secrets, folder, lag=lag)
        self._sources = [each["secret"] for each in sources]

    def content(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in self._sources:
            answer = self._api.ask("GET", f"{self._path}/{source['name']}")
            data = answer.json["data"] if answer.status == 200 else {}
            found |= {item["path"]: data[item["key"]] for item in source["items"] if item["key"] in data}
        return found
