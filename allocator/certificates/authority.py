"""The built-in certificate authority: from what it is and how far it is known, what it becomes. Pure.

A certificate must never be shown to anybody who does not trust its signer yet. Everything that is written takes a while
until it is used everywhere: kubelets show a changed Secret after up to two minutes, and API servers follow as they can.
So an authority is followed in three steps:

1. When two thirds of its life are over a successor is made, which signs nothing. From now on both are named as trusted.
2. When every place that says whom to trust has named the successor for `propagation_seconds`, the
   successor signs. All certificates are made anew at once, and the old ones stay good where they are still in use. It
   signs early enough in any case that new certificates are seen before the old authority ends: whoever takes a name
   back again and again holds up no more than who reads that one place.
3. The old authority stays trusted until it has expired, and with it the last certificate that it signed.

Certificates are made anew when two thirds of their life are over, too.

Where the signer is lost or has expired, a successor signs at once, known or not: nothing better is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cryptography import x509

from allocator.certificates.issuing import (
    CertificateSubject,
    Pair,
    ends,
    fits,
    is_from,
    issue,
    new_authority,
    pem,
    renewal,
)

Certificates = tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRules:
    """How long things live, in seconds, and how long what is written may take until it is used everywhere."""

    authority_seconds: float
    certificate_seconds: float
    propagation_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """`trusted` has signer, successor and predecessors. `spread_since`: since when every place trusts the successor."""

    signer: Pair
    trusted: Certificates
    successor: Pair | None = None
    spread_since: float | None = None

    @property
    def bundle(self) -> str:
        return pem(self.trusted)


def advance(
    held: Authority | None,
    rules: CertificateRules,
    *,
    is_spread: bool | None,
    now: float,
    also_trusted: Certificates = (),
) -> Authority:
    """What the authority should be from now on.

    `is_spread`: whether every place that says whom to trust names the successor; False as soon as one does not, None
    where that could not be seen. `also_trusted`: whom to trust where nothing is held; certificates of a lost authority
    may still be in use.
    """
    if held is None or ends(held.signer.certificate) <= now:  # nothing better is left than a signer nobody knows
        return _anew(held, rules, now, also_trusted)
    held = replace(held, trusted=_living(held.trusted, now))
    if held.successor is None:
        return held if now < renewal(held.signer.certificate) else _with_successor(held, rules, now)  # step 1
    if now > _last_moment(held, rules):  # early enough in any case
        return Authority(signer=held.successor, trusted=held.trusted)
    if is_spread is False:
        return replace(held, spread_since=None)  # it will be mended, and then takes its time again
    since = now if held.spread_since is None and is_spread else held.spread_since
    if since is None or now < since + rules.propagation_seconds:
        return replace(held, spread_since=since)
    # Step 2. The old authority stays in `trusted`, which is step 3: `_living` drops it when it has expired.
    return Authority(signer=held.successor, trusted=held.trusted)


def _last_moment(held: Authority, rules: CertificateRules) -> float:
    """When a new certificate has to be written, so that nobody is shown an old one that has ended."""
    return ends(held.signer.certificate) - rules.propagation_seconds


def _anew(held: Authority | None, rules: CertificateRules, now: float, also_trusted: Certificates) -> Authority:
    signer = held.successor if held else None
    if signer is None or ends(signer.certificate) <= now:
        signer = new_authority(now=now, seconds=rules.authority_seconds)
    trusted = held.trusted if held else also_trusted
    return Authority(signer=signer, trusted=_living((*trusted, signer.certificate), now))


def _with_successor(held: Authority, rules: CertificateRules, now: float) -> Authority:
    successor = new_authority(now=now, seconds=rules.authority_seconds)
    return replace(held, successor=successor, trusted=(*held.trusted, successor.certificate), spread_since=None)


def _living(certificates: Iterable[x509.Certificate], now: float) -> Certificates:
    return tuple(dict.fromkeys(each for each in certificates if ends(each) > now))


def certified(
    held: Pair | None, identity: CertificateSubject, authority: Authority, rules: CertificateRules, *, now: float
) -> Pair:
    """The certificate that should be in use: the one that is, where it is right."""
    if (
        held is not None
        and now < renewal(held.certificate)
        and is_from(authority.signer, held.certificate)
        and fits(held.certificate, identity)
    ):
        return held
    return issue(authority.signer, identity, now=now, seconds=rules.certificate_seconds)


def next_due(authority: Authority, pairs: Iterable[Pair], rules: CertificateRules) -> float:
    """When something has to be done, if nobody changes anything: seconds since the epoch."""
    due = [renewal(each.certificate) for each in pairs]
    if authority.successor is None:
        due.append(renewal(authority.signer.certificate))
    elif authority.spread_since is not None:
        due.append(authority.spread_since + rules.propagation_seconds)
    return min(due, default=float("inf"))
