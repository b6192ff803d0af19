"""The Python of docs/leasing.md does what it says, against both listeners of a real service."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from access.reviewing import account
from access.secured import Secured

PAGE = Path(__file__).resolve().parents[2] / "docs" / "leasing.md"


def example(folder: Path) -> dict[str, Any]:
    """What the page's code defines, with the folder of this test."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "def connect" in block]
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    names["FOLDER"] = folder
    return names


async def test_a_service_leases_with_its_token_and_the_token_may_change(secured: Secured, tmp_path: Path) -> None:
    page = example(tmp_path)
    secured.authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    secured.server.grant(account("media", "relay"), "create delete", "media")

    secured.server.add("token-0", account("media", "relay"))
    (tmp_path / "token").write_text("token-0", encoding="utf-8")

    def two_leases() -> None:
        with page["connect"](f"localhost:{secured.token_port}") as client:
            for number in range(2):
                secured.server.add(f"token-{number}", account("media", "relay"))
                (tmp_path / "token").write_text(f"token-{number}", encoding="utf-8")
                with client.lease(f"Relay/r{number}"):
                    owners.extend((claim.owner.namespace, claim.owner.name) for claim in secured.ledger.claims)

    owners: list[tuple[str, str]] = []
    await asyncio.to_thread(two_leases)

    assert owners == [("media", "r0"), ("media", "r1")]
    assert list(secured.ledger.claims) == []
    assert [spec["token"] for spec in secured.server.specs("TokenReview")] == ["token-0", "token-1"]
