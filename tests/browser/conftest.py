"""A browser for all tests, and allocators that they look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from browser import chromium
from browser.program import Program, crowded
from browser.reader import Reader


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = chromium.missing()
    for item in items if missing else ():
        item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="session")
def readers() -> Iterator[Reader]:
    with chromium.browser() as driver:
        yield Reader(driver)


@pytest.fixture
def reader(readers: Reader) -> Iterator[Reader]:
    """A desktop in the light. What a test has the browser complain about fails it."""
    readers.begin()
    yield readers
    complaints = readers.complaints()
    readers.leave()
    assert complaints == []


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with crowded(tmp_path_factory.mktemp("few"), nodes=4, games=12) as (program, _):
        yield program


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with crowded(tmp_path_factory.mktemp("many"), nodes=1000, games=1) as (program, _):
        yield program
