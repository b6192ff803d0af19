"""The Python of docs/leasing.md that shows the client library does what it says."""

from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path
from typing import Any

from hostport.client import Credentials
from testing.servicekit import Running

PAGE = Path(__file__).resolve().parents[2] / "docs" / "leasing.md"


def block(having: str) -> str:
    """The code of the page in which this stands."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [each for each in blocks if having in each]
    return str(code)


async def test_the_block_with_threads(service: Running) -> None:
    served: list[int] = []
    code = block("with Client(").replace("127.0.0.1:50051", str(service.address))

    await asyncio.to_thread(exec, compile(code, str(PAGE), "exec"), {"serve": served.append})

    assert served == [21000]
    assert list(service.engine.ledger.claims) == []


async def test_the_block_on_asyncio(service: Running) -> None:
    served: list[int] = []

    async def serve(number: int) -> None:
        served.append(number)

    code = block("with AsyncClient(").replace("hostport-allocator.hostport-system.svc:50051", str(service.address))
    code = code.replace("Credentials(ca=ca, cert=cert, key=key)", "Credentials()")  # the service speaks plain text
    names: dict[str, Any] = {"serve": serve, "Credentials": Credentials}
    exec(compile(f"async def page():\n{textwrap.indent(code, '    ')}", str(PAGE), "exec"), names)

    await names["page"]()

    assert served == [7000]
    assert list(service.engine.ledger.claims) == []
