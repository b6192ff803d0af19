"""When the authority changes hands, and when certificates are made anew."""

from __future__ import annotations

from dataclasses import replace

import pytest

from allocator.certificates.authority import Authority, CertificateRules, advance, certified, next_due
from allocator.certificates.issuing import CLIENT, SERVER, CertificateSubject, Pair, issue, new_authority, pem

NOW = 1_800_000_000.0
RULES = CertificateRules(authority_seconds=12_000, certificate_seconds=6000, propagation_seconds=1000)
LATE = NOW + 9000  # two thirds of an authority's life are over
SHIM = CertificateSubject(
    name="hostport-shim", alternatives=("hostport-shim.demo.svc", "127.0.0.1"), usages=(SERVER, CLIENT)
)


def first() -> Authority:
    return advance(None, RULES, is_spread=None, now=NOW)


def following() -> Authority:
    """One whose successor waits until everybody knows it."""
    return advance(first(), RULES, is_spread=None, now=LATE)


def test_at_first_one_is_made_which_signs_at_once() -> None:
    authority = first()

    assert authority == Authority(signer=authority.signer, trusted=(authority.signer.certificate,))


def test_one_in_its_best_years_stays_as_it_is() -> None:
    authority = first()

    assert advance(authority, RULES, is_spread=None, now=NOW + 7000) == authority


def test_after_two_thirds_of_its_life_a_successor_is_made_known_and_signs_nothing() -> None:
    authority = first()

    later = advance(authority, RULES, is_spread=None, now=LATE)

    assert later.successor is not None
    assert later == replace(
        authority,
        successor=later.successor,
        trusted=(authority.signer.certificate, later.successor.certificate),
    )


def test_the_successor_signs_when_every_place_has_named_it_for_long_enough() -> None:
    waiting = following()
    known = advance(waiting, RULES, is_spread=True, now=LATE + 10)
    assert known == replace(waiting, spread_since=LATE + 10)
    assert advance(known, RULES, is_spread=True, now=LATE + 1009) == known

    changed = advance(known, RULES, is_spread=True, now=LATE + 1010)

    assert waiting.successor is not None
    assert changed == Authority(signer=waiting.successor, trusted=waiting.trusted)


@pytest.mark.parametrize("is_spread", [None, False], ids=["it cannot be seen", "a place does not name it"])
def test_the_successor_waits_until_every_place_was_seen_to_name_it(is_spread: bool | None) -> None:
    waiting = following()

    assert advance(waiting, RULES, is_spread=is_spread, now=LATE + 2000) == waiting


def test_a_place_that_forgets_the_successor_starts_the_wait_anew() -> None:
    waiting = following()
    known = advance(waiting, RULES, is_spread=True, now=LATE + 10)

    assert advance(known, RULES, is_spread=False, now=LATE + 900) == waiting


def test_a_place_that_cannot_be_seen_for_a_while_does_not() -> None:
    known = advance(following(), RULES, is_spread=True, now=LATE + 10)

    assert advance(known, RULES, is_spread=None, now=LATE + 900) == known


def test_an_authority_is_trusted_until_it_has_expired() -> None:
    known = advance(following(), RULES, is_spread=True, now=LATE)
    changed = advance(known, RULES, is_spread=True, now=LATE + 1000)

    assert advance(changed, RULES, is_spread=None, now=NOW + 11_999).trusted == changed.trusted
    assert advance(changed, RULES, is_spread=None, now=NOW + 12_000).trusted == (changed.signer.certificate,)


@pytest.mark.parametrize("is_spread", [None, False], ids=["it cannot be seen", "a place does not name it"])
def test_at_the_last_moment_the_successor_signs_wherever_it_is_known(is_spread: bool | None) -> None:
    """A certificate that is written any later is not seen before the old one has ended."""
    waiting = following()
    assert waiting.successor is not None
    assert advance(waiting, RULES, is_spread=is_spread, now=NOW + 11_000) == waiting

    changed = advance(waiting, RULES, is_spread=is_spread, now=NOW + 11_001)

    assert changed == Authority(signer=waiting.successor, trusted=waiting.trusted)


def test_a_successor_signs_at_once_when_the_signer_has_expired() -> None:
    waiting = following()
    assert waiting.successor is not None

    changed = advance(waiting, RULES, is_spread=False, now=NOW + 12_000)

    assert changed == Authority(signer=waiting.successor, trusted=(waiting.successor.certificate,))


def test_after_a_long_sleep_everything_is_new() -> None:
    old = following()

    changed = advance(old, RULES, is_spread=None, now=NOW + 1_000_000)

    assert changed.signer not in (old.signer, old.successor)
    assert changed.trusted == (changed.signer.certificate,)


def test_the_certificates_of_a_lost_authority_stay_trusted() -> None:
    lost = first().signer.certificate

    authority = advance(None, RULES, is_spread=None, now=NOW, also_trusted=(lost,))

    assert authority.trusted == (lost, authority.signer.certificate)


def shown(authority: Authority, identity: CertificateSubject = SHIM) -> Pair:
    return certified(None, identity, authority, RULES, now=NOW)


def test_a_certificate_that_is_right_stays() -> None:
    authority = first()
    pair = shown(authority)

    assert certified(pair, SHIM, authority, RULES, now=NOW + 3000) is pair


@pytest.mark.parametrize(
    ("held", "now"),
    [
        (shown, NOW + 4500),
        (lambda _: shown(first()), NOW),
        (lambda a: shown(a, replace(SHIM, alternatives=("hostport-shim.other.svc",))), NOW),
        (lambda a: shown(a, replace(SHIM, usages=(SERVER,))), NOW),
        (lambda a: shown(a, replace(SHIM, name="somebody")), NOW),
        (lambda a: a.signer, NOW),
    ],
    ids=["two thirds over", "another signer", "other names", "other usages", "another common name", "no leaf"],
)
def test_a_certificate_that_is_wrong_is_made_anew(held: object, now: float) -> None:
    authority = first()
    assert callable(held)
    old = held(authority)

    pair = certified(old, SHIM, authority, RULES, now=now)

    assert pair != old
    assert certified(pair, SHIM, authority, RULES, now=now) is pair


def test_what_is_due_next() -> None:
    authority, waiting = first(), following()
    pair = shown(authority)
    known = advance(waiting, RULES, is_spread=True, now=LATE)

    assert next_due(authority, [pair], RULES) == NOW - 300 + 6300 * 2 / 3
    assert next_due(authority, [], RULES) == NOW - 300 + 12_300 * 2 / 3
    assert next_due(waiting, [], RULES) == float("inf")
    assert next_due(known, [], RULES) == LATE + 1000


def test_a_key_is_in_no_log() -> None:
    authority = new_authority(now=NOW, seconds=10)
    pair = issue(authority, SHIM, now=NOW, seconds=10)

    assert "PRIVATE" in pair.key
    assert "PRIVATE" not in repr(pair) + repr(Authority(signer=pair, trusted=()))
    assert "PRIVATE" not in pem([pair.certificate])
