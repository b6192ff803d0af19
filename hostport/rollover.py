"""Whom to trust and what to show while one authority follows another, told by files that change under way. Pure.

Whoever makes the files (cert-manager, a person) changes them at one program after the other, and a kubelet shows each
late. So:

* An authority that was trusted stays so until it ends, though no file names it any more: what it signed is in use until
  everybody has been given something newer. A restart forgets it.
* A new certificate is shown once every authority that is trusted here has been known for `delay` seconds: by then
  the other side knows it as well. Until then the former one is shown, unless that ends before.
* Of the authorities that no file names at most `MOST_FORMER` are remembered: those that end last.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import nlargest
from ssl import PEM_cert_to_DER_cert

from hostport.x509 import certificates, not_after

MOST_FORMER = 16
MOST_TOLD = 16


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate chain and its key, PEM."""

    chain: bytes
    key: bytes = field(repr=False)


class RollOver:
    """See the module. `now` gives seconds since the epoch, `clock` seconds that never go back."""

    def __init__(
        self,
        delay: float = 0.0,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._delay = delay
        self._now = now
        self._clock = clock
        self._known: dict[str, float] = {}  # PEM of each authority, and when it ends
        self._changed = -math.inf
        self._shown: KeyPair | None = None
        self._waiting: KeyPair | None = None

    # -- whom to trust

    def trust(self, named: bytes) -> bytes:
        """What the files name now, PEM; returns all that is trusted."""
        text = named.decode("ascii", "replace")
        found = {each: _expiry_of(each) for each in certificates(text)}
        if self._known and found.keys() - self._known.keys():
            self._changed = self._clock()  # from now on `delay` seconds, until the other side knows it as well
        former = {each: end for each, end in self._known.items() if each not in found and self._now() < end < math.inf}
        # What no file names any more stays trusted until it ends: what it signed is still in use.
        self._known = found | dict(nlargest(MOST_FORMER, former.items(), key=lambda each: each[1]))
        return self.trusted

    @property
    def trusted(self) -> bytes:
        """All that is trusted, PEM."""
        return "".join(self._known).encode()

    def authorities(self) -> Mapping[str, float]:
        """When each authority that is trusted ends, seconds since the epoch: the `MOST_TOLD` that end last."""
        return _ends_by_fingerprint(self._known)

    # -- what to show

    @property
    def shown(self) -> KeyPair | None:
        """What is shown; None: nothing yet."""
        return self._shown

    def show(self, pair: KeyPair) -> KeyPair:
        """What the files hold now; returns what is to be shown."""
        held = self._shown
        if held is None or held == pair or self._may_follow(held):
            self._shown, self._waiting = pair, None
            return pair
        self._waiting = pair
        return held

    def is_due(self) -> bool:
        """Whether what waits may be shown by now."""
        return self._waiting is not None and self._shown is not None and self._may_follow(self._shown)

    def _may_follow(self, shown: KeyPair) -> bool:
        """Whether another may take its place: the other side knows every authority, or it ends soon."""
        ends = _expiry_of(shown.chain.decode("ascii", "replace"))
        return self._clock() >= self._changed + self._delay or self._now() >= ends - self._delay


def ending(bundle: str) -> Mapping[str, float]:
    """The same of a bundle, PEM."""
    return _ends_by_fingerprint({each: _expiry_of(each) for each in certificates(bundle)})


def _ends_by_fingerprint(ends: Mapping[str, float]) -> Mapping[str, float]:
    named = {fingerprint(each): end for each, end in ends.items() if math.isfinite(end)}
    return dict(nlargest(MOST_TOLD, named.items(), key=lambda each: each[1]))


def fingerprint(pem: str) -> str:
    """The first 16 digits of SHA-256 over the certificate."""
    return sha256(PEM_cert_to_DER_cert(pem)).hexdigest()[:16]


def _expiry_of(pem: str) -> float:
    """Not a certificate that can be read: it never ends, so that nothing hangs on it."""
    try:
        return not_after(pem)
    except ValueError:
        return math.inf
