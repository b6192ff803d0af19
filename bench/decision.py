"""The time of one decision, in this process: `Ledger.reserve` with a Pod of two ports that may run on any node.

Each cell is compared with the same cell at 10 nodes. A reservation is undone outside of the time, so that the ledger is
the same before every decision; all ledgers stand side by side and take turns.

A block of 100 numbers is decided in ledgers of its own, where ten such blocks of the range stand on 99 % of all nodes.

"x % full": of the 1,000 numbers of the range, x % stand on some node. Index: the two numbers that are asked for stand
on x % of the nodes.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from allocator.core.admission import LedgerRules
from allocator.core.asks import Ask, PortAsk, Refused
from allocator.core.candidates import ANYWHERE, Constraints, Node, NodeName, Toleration
from allocator.core.claims import Claim, ClaimId, ClaimPort, ClusterChange, ObservedPod, Owner, PodUid, State
from allocator.core.ledger import Ledger
from allocator.core.place.policies import DYNAMIC, INDEX
from bench.measure import Row, Sample, alternate, median
from bench.options import Options

BASE, LARGEST = 10, 5_000
SIZES = (1, BASE, 100, LARGEST)
FILLS = (1, 50, 90, 99)
RANGES = (*FILLS, 100)
WIDTH = 1000
DECISIONS = 200
PORTS_PER_NODE = 30
PORTS_PER_POD = 3

BLOCK, BLOCKS, BLOCK_LOW = 100, 10, 20_000

OWNER = Owner(namespace="demo", generate_name="db-", controller_uid="e50c496d-8c49-4371-8b7e-15ed1895bf31")
CROWD = 5_000
CROWD_LOW = 55_000
VARIETY = 300

_serial = itertools.count()


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of decision: its name in the table, and the ask that it begins with. `is_denied` None: either will do."""

    what: str
    ask: Callable[[], Ask]
    is_denied: bool | None = False


def decision(options: Options) -> list[Row]:
    ledgers = {size: build(size) for size in SIZES}
    rows = []
    for case in cases():
        samples: dict[int, list[Sample]] = {size: [] for size in SIZES}
        for _ in range(options.rounds):
            for size, ledger in ledgers.items():
                samples[size].append(measure(ledger, case))
        rows.append(_row(case, samples))
    return [*rows, _blocks(options), *_histories(options)]


def _blocks(options: Options) -> Row:
    """A block at many nodes over a few: no run is free on all of them, so that the roomiest is looked for."""
    case = Case(f"a block of {BLOCK}, 99 % full", _block, is_denied=None)
    ledgers = {size: build_blocks(size) for size in SIZES}
    samples: dict[int, list[Sample]] = {size: [] for size in SIZES}
    for _ in range(options.rounds):
        for size, ledger in ledgers.items():
            samples[size].append(measure(ledger, case))
    return _row(case, samples, "≤ 2, ≤ 50 µs")


def _histories(options: Options) -> Iterator[Row]:
    """What happened before must not matter: a ledger with a past over one without."""
    ask = Case("Dynamic, 50 % full", partial(_dynamic, 50))
    plain, crowded, various = (build(LARGEST) for _ in range(3))
    crowd(crowded)
    crowded.proven(0.0)
    for _ in range(VARIETY):
        various.preview(_dynamic(50, _fresh_constraints()), 0.0)
    for what, ledger in (
        (f"after {CROWD:,} reservations of the same owner", crowded),
        (f"after {VARIETY} other selectors", various),
    ):
        ours, bare = alternate(options.rounds, partial(measure, ledger, ask), partial(measure, plain, ask))
        yield Row(
            bench="decision",
            what=f"decision, {LARGEST:,} nodes: {what}, over none",
            unit="µs",
            ours=ours,
            bare=bare,
            aim="≤ 1.2",
            beside=f"p99 {median(ours, 'p99_us'):.0f}/{median(bare, 'p99_us'):.0f} µs",
        )


def cases() -> Iterator[Case]:
    for fill in FILLS:
        yield Case(f"Dynamic, {fill} % full", partial(_dynamic, fill))
    for fill in FILLS:
        yield Case(f"Index, {fill} % full", partial(_index, fill))
    # Granted on the numbers that are free on most nodes; denied on one node, where none is left.
    yield Case("Dynamic, no number free on all", partial(_dynamic, 100), is_denied=None)
    yield Case("Index, denied: taken everywhere", partial(_index, 100), is_denied=True)
    yield Case("Dynamic, 50 % full, a selector never seen", lambda: _dynamic(50, _fresh_constraints()))


def measure(ledger: Ledger, case: Case) -> Sample:
    """Median and p99 of some decisions, in µs."""
    times = []
    for _ in range(DECISIONS):
        ask, claim_id = case.ask(), ClaimId(f"bench-{next(_serial)}")
        began = time.perf_counter_ns()
        try:
            ledger.reserve(ask, claim_id, 0.0)
        except Refused:
            is_denied = True
        else:
            is_denied = False
        times.append((time.perf_counter_ns() - began) / 1000)
        if case.is_denied not in (None, is_denied):
            raise AssertionError(f"{case.what}: {'denied' if is_denied else 'granted'}")
        if not is_denied:
            ledger.abort(claim_id)
    return Sample(statistics.median(times), {"p99_us": statistics.quantiles(times, n=100)[98]})


def _row(case: Case, samples: dict[int, list[Sample]], aim: str = "≤ 2") -> Row:
    others = ", ".join(f"{size}: {median(samples[size]):.1f} µs" for size in SIZES if size not in (BASE, LARGEST))
    return Row(
        bench="decision",
        what=f"decision, {LARGEST:,} nodes over {BASE}: {case.what}",
        unit="µs",
        ours=samples[LARGEST],
        bare=samples[BASE],
        aim=aim,
        beside=f"p99 {median(samples[LARGEST], 'p99_us'):.0f}/{median(samples[BASE], 'p99_us'):.0f} µs, {others}",
    )


# -- the ledgers


def build(size: int) -> Ledger:
    """A ledger in which every fill has a range of its own, all on the same nodes."""
    ledger = Ledger(LedgerRules())
    names = [NodeName(f"node-{number:05}") for number in range(size)]
    pods = [pod for fill in RANGES for pod in _fillers(names, fill)]
    ledger.observe(ClusterChange(nodes=[_node(name) for name in names], pods=pods), now=0.0)
    return ledger


def build_blocks(size: int) -> Ledger:
    """A ledger in which blocks fill a range on all nodes but one in a hundred."""
    ledger = Ledger(LedgerRules())
    names = [NodeName(f"node-{number:05}") for number in range(size)]
    ledger.observe(ClusterChange(nodes=[_node(name) for name in names]), now=0.0)
    taken = [(name, at) for name in names for at in range(BLOCKS)][: -(-size * BLOCKS * 99 // 100)]
    ledger.restore((_held_block(name, at) for name, at in taken), now=0.0)
    return ledger


def _held_block(name: NodeName, at: int) -> Claim:
    return Claim(
        id=ClaimId(f"block-{name}-{at}"),
        owner=Owner(namespace="filler", name=f"{name}-{at}"),
        state=State.BOUND,
        ports=(ClaimPort(container="c", container_port=80, host_port=BLOCK_LOW + at * BLOCK, count=BLOCK),),
        created=0.0,
        node=name,
        pod_uid=PodUid(f"{name}-{at}"),
    )


def _block() -> Ask:
    port = PortAsk(container="sfu", name="media", container_port=10_000, count=BLOCK)
    high = BLOCK_LOW + BLOCKS * BLOCK - 1
    return Ask(owner=OWNER, ports=(port,), policy=DYNAMIC, low=BLOCK_LOW, high=high)


def crowd(ledger: Ledger) -> None:
    """Reservations of one owner, by hand: an ask for each would take as long as what is measured."""
    claims = (
        Claim(
            id=ClaimId(f"crowd-{number}"),
            owner=OWNER,
            state=State.RESERVED,
            ports=(ClaimPort(container="c", container_port=80, host_port=CROWD_LOW + number),),
            created=0.0,
            expires=0.0,
        )
        for number in range(CROWD)
    )
    ledger.restore(claims, now=0.0)


def _node(name: NodeName) -> Node:
    return Node(name=name, labels={"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "zone": name[-1]})


def _fillers(names: list[NodeName], fill: int) -> Iterator[ObservedPod]:
    """Pods that fill the range of a fill, and hold the two numbers of its Index ask on as many nodes as it says."""
    numbers = list(range(_low(fill), _low(fill) + WIDTH * fill // 100))
    on_node = max(-(-len(numbers) // len(names)), min(PORTS_PER_NODE // len(FILLS), len(numbers)))
    for position, name in enumerate(names):
        mine = sorted({numbers[(position * on_node + i) % len(numbers)] for i in range(on_node)})
        for pod in range(0, len(mine), PORTS_PER_POD):
            yield _pod(f"{fill}-{position}-{pod}", name, mine[pod : pod + PORTS_PER_POD])
    for position in range(len(names) * fill // 100):
        yield _pod(f"index-{fill}-{position}", names[position], [_index_low(fill), _index_low(fill) + 1])


def _pod(name: str, node: NodeName, numbers: list[int]) -> ObservedPod:
    ports = tuple(ClaimPort(container="c", container_port=8000 + i, host_port=n) for i, n in enumerate(numbers))
    return ObservedPod(uid=PodUid(name), namespace="filler", name=name, node=node, ports=ports)


def _low(fill: int) -> int:
    return 10_000 + WIDTH * RANGES.index(fill)


def _index_low(fill: int) -> int:
    return 50_000 + fill * 10


def _dynamic(fill: int, constraints: Constraints = ANYWHERE) -> Ask:
    low = _low(fill)
    return Ask(
        owner=OWNER,
        ports=_ports(),
        policy=DYNAMIC,
        low=low,
        high=low + WIDTH - 1,
        constraints=constraints,
    )


def _index(fill: int) -> Ask:
    low = _index_low(fill)
    return Ask(owner=OWNER, ports=_ports(), policy=INDEX, low=low, high=low + 9, stride=1, index=0)


def _ports() -> tuple[PortAsk, ...]:
    return (
        PortAsk(container="node", name="primary", container_port=8080),
        PortAsk(container="node", name="metrics", container_port=9090),
    )


def _fresh_constraints() -> Constraints:
    """A selector that every node satisfies; the toleration makes it one that was never asked for."""
    return Constraints(selector=(("kubernetes.io/os", "linux"),), tolerations=(Toleration(key=f"new-{next(_serial)}"),))
