"""Whatever a review says: it is answered, a refusal changes nothing, and a patch gives what the ledger holds.

The shim's `admit` asks a real allocator over a real socket. `FUZZ=100000` tries as many reviews, `FUZZ_SEED` begins
with another seed; each hundred reviews have a seed of their own and begin with empty books.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections import Counter
from copy import deepcopy
from functools import partial
from random import Random

import jsonpatch
import pytest

from allocator.core.claims import ClaimId, State
from hostport.contract import Reason
from hostport.contract.limits import LARGEST_ANSWER
from hostport.contract.words import REFUSAL_STATUSES
from hostport.credentials import Credentials
from shim.admission import AdmissionAnswer, admit
from shim.client import AllocatorClient
from shim.outcomes import Allocate, Unreachable
from shim.review import ReviewError
from testing.servicekit import Running, Start
from testing.storekit import assert_in_step

from .books import RULES, Pods, contents, furnish
from .reviews import NODES, OURS, Json, part, review_by_chance

REVIEWS = int(os.environ.get("FUZZ", "1500"))
FIRST = int(os.environ.get("FUZZ_SEED", "0"))
AT_ONCE = 100
REFUSALS = {reason.name for reason in Reason if reason.code.value in REFUSAL_STATUSES}
LONGEST_ERROR = 2_000


async def answered(body: bytes, ask: Allocate) -> AdmissionAnswer | Unreachable | str:
    try:
        return await admit(body, ask, probe=ask)
    except ReviewError as error:
        return str(error)


def word(answer: AdmissionAnswer | Unreachable | str) -> str:
    """What a run counts."""
    if isinstance(answer, str):
        return "400"
    return "503" if isinstance(answer, Unreachable) else answer.reason or answer.result


class World:
    """One allocator, the shim's side of it, and the Pods that came of it."""

    def __init__(self, seed: int, service: Running, client: AllocatorClient, found: Counter[str]) -> None:
        self.chance = Random(seed)
        self.service = service
        self.pods = Pods(service)
        self._client = client
        self._found = found

    async def answer(self, review: Json) -> AdmissionAnswer | Unreachable | str:
        """Asks, and holds what goes for every answer. Text: why the body could not be answered."""
        deadline = asyncio.get_running_loop().time() + 20
        ask = partial(self._client.allocate, deadline=deadline)
        before = contents(self.service)
        answer = await answered(json.dumps(review).encode(), ask)
        self._found[word(answer)] += 1
        if isinstance(answer, AdmissionAnswer):
            assert len(answer.body) <= LARGEST_ANSWER
        if isinstance(answer, str):
            assert 0 < len(answer.encode()) < LONGEST_ERROR
        if isinstance(answer, Unreachable):
            assert answer.reason == Reason.SEARCH_INCOMPLETE.name, answer
        if not isinstance(answer, AdmissionAnswer) or not answer.allocation_id:
            self._assert_unchanged(review, before, answer)
        assert_in_step(self.service.engine.ledger._store)
        return answer

    def _assert_unchanged(self, review: Json, before: Json, answer: AdmissionAnswer | Unreachable | str) -> None:
        """A Pod that brings its own reservation and is refused keeps nothing. All else is as it was."""
        if isinstance(answer, AdmissionAnswer) and answer.result == "denied":
            response = json.loads(answer.body)["response"]
            assert response["status"]["reason"] in REFUSALS
            assert response["status"]["code"] in (403, 422)
            self._end_own(review, before)
        assert contents(self.service) == before

    def _end_own(self, review: Json, before: Json) -> None:
        """What the Pod brought, where the refusal has ended it, counts no more."""
        annotations = part(part(review["request"]["object"], "metadata"), "annotations")
        brought = str(annotations.get(f"{OURS}allocation-id"))
        own = before["claims"].get(brought)
        if own is not None and not self.service.engine.ledger.claims.has(ClaimId(brought)):
            assert own.state is State.RESERVED
            assert own.owner.namespace == (
                part(review["request"]["object"], "metadata").get("namespace") or review["request"]["namespace"]
            )
            assert review["request"].get("dryRun") is not True
            del before["claims"][brought], before["answers of"][brought]


def numbers(obj: Json) -> list[tuple[str, str, int, int]]:
    """Container, protocol, containerPort and hostPort of each port that counts."""
    spec = obj["spec"]
    counted = [
        *(spec.get("containers") or ()),
        *(c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"),
    ]
    return [
        (each.get("name") or "", port.get("protocol") or "TCP", port["containerPort"], port["hostPort"])
        for each in counted
        for port in each.get("ports") or ()
        if port.get("hostPort")
    ]


def patched(review: Json, answer: AdmissionAnswer) -> Json:
    ops = json.loads(base64.b64decode(json.loads(answer.body)["response"].get("patch", "W10=")))
    result: Json = jsonpatch.apply_patch(deepcopy(review["request"]["object"]), ops)
    return result


def check_grant(world: World, obj: Json, answer: AdmissionAnswer) -> None:
    claim = world.service.engine.ledger.claims.get(ClaimId(answer.allocation_id))
    assert claim is not None
    annotations = obj["metadata"]["annotations"]
    is_mapped = annotations.get(f"{OURS}network") == "Pod"  # the node maps the number to the port, which stays
    assert sorted(numbers(obj)) == sorted(
        (port.container, port.protocol.value, port.container_port if is_mapped else port.host_port, port.host_port)
        for port in claim.ports
    )
    assert annotations[f"{OURS}allocation-id"] == claim.id
    table = json.loads(annotations[f"{OURS}allocations"])
    assert sorted(
        (each["container"], each["protocol"], each["containerPort"], each["hostPort"]) for each in table
    ) == sorted((port.container, port.protocol.value, port.container_port, port.host_port) for port in claim.ports)
    assert (obj["spec"].get("hostNetwork") is True) is not is_mapped


async def once(world: World) -> None:
    """A review; what was granted comes again, becomes a Pod, or is never seen."""
    chance = world.chance
    review = review_by_chance(chance)
    if chance.random() < 0.05:  # somebody's id, copied
        copied = chance.choice(list(world.service.engine.ledger._claims))
        part(part(review["request"]["object"], "metadata"), "annotations")[f"{OURS}allocation-id"] = copied
    answer = await world.answer(review)
    await world.pods.pass_time(chance.choice((0.0, 0.1, 1.0, 5.0)))
    if not isinstance(answer, AdmissionAnswer) or answer.result != "patched":
        return
    obj = patched(review, answer)
    if not answer.allocation_id:
        assert review["request"]["dryRun"] is True
        assert sorted(host for *_, host in numbers(obj)) == sorted(answer.numbers)
        return
    check_grant(world, obj, answer)
    for _ in range(chance.choice((0, 0, 1, 2))):
        obj = await again(world, review, obj)
        if not obj:
            return
    if chance.random() < 0.7:
        at = obj["spec"].get("nodeName") or chance.choice((*NODES, ""))
        world.pods.create(obj, f"{chance.getrandbits(64):016x}", at)


async def again(world: World, review: Json, obj: Json) -> Json:
    """The webhook is asked again, because another one changed the Pod or might have; empty when it is refused."""
    chance = world.chance
    request = review["request"] | {"uid": f"{chance.getrandbits(64):016x}", "object": deepcopy(obj)}
    is_changed = chance.random() < 0.5
    if is_changed:
        port = {"containerPort": chance.choice((15090, 7001, 7000, 8080)), "protocol": "TCP"}
        port |= {"hostPort": port["containerPort"]} if chance.random() < 0.8 else {}
        request["object"]["spec"]["containers"].insert(0, {"name": "proxy", "image": "x", "ports": [port]})
    another = review | {"request": request}
    answer = await world.answer(another)
    if not isinstance(answer, AdmissionAnswer) or answer.result != "patched":
        assert is_changed or isinstance(answer, AdmissionAnswer), answer
        return {}
    if not is_changed and answer.allocation_id == obj["metadata"]["annotations"][f"{OURS}allocation-id"]:
        assert answer.ops == ()
    result = patched(another, answer)
    check_grant(world, result, answer)
    return result


@pytest.mark.parametrize("part_of", range(5))
async def test_no_review_breaks_the_shim_or_the_books(start: Start, part_of: int) -> None:
    found: Counter[str] = Counter()
    for seed in range(FIRST + part_of, FIRST + max(5, REVIEWS // AT_ONCE), 5):
        service = await start(rules=RULES)
        furnish(service)
        client = AllocatorClient(service.address, Credentials())
        world = World(seed, service, client, found)
        for number in range(AT_ONCE):
            try:
                await once(world)
            except Exception as error:
                error.add_note(f"FUZZ_SEED={seed}, review {number} of its {AT_ONCE}")
                raise
        await client.close()
    print(dict(found.most_common()))  # noqa: T201 - `pytest -s` shows what came of them
    assert found["patched"] > found.total() / 5, "hardly anything was granted: little was shown"
    assert len(found) > 12, "hardly anything was refused: little was shown"
