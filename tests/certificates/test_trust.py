"""CertificateFiles change at one program after the other: whom each trusts then, and which certificate it shows."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from allocator.certificates.issuing import CLIENT, SERVER, CertificateSubject, Pair, ends, issue, new_authority, pem
from allocator.certificates.serving import CertificateFiles
from hostport.credentials import Credentials
from hostport.rollover import MOST_FORMER, MOST_TOLD, KeyPair, RollOver, ending, fingerprint
from hostport.x509 import certificates

NOW = 1_800_000_000.0
HOUR = 3600.0
DELAY = 600.0
SHIM = CertificateSubject(name="hostport-shim", alternatives=("127.0.0.1",), usages=(SERVER, CLIENT))


def authority(hours: float = 24) -> Pair:
    return new_authority(now=NOW, seconds=hours * HOUR)


def leaf(signer: Pair, hours: float = 12) -> KeyPair:
    pair = issue(signer, SHIM, now=NOW, seconds=hours * HOUR)
    return KeyPair(pem([pair.certificate]).encode(), pair.key.encode())


def named(*authorities: Pair) -> bytes:
    return pem(each.certificate for each in authorities).encode()


@dataclass
class Clock:
    """Both clocks."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Program:
    """One that looks at its files."""

    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.roll_over = RollOver(DELAY, now=self.clock, clock=self.clock)

    def look(self, bundle: bytes, pair: KeyPair) -> tuple[bytes, KeyPair]:
        return self.roll_over.trust(bundle), self.roll_over.show(pair)


def test_what_is_there_at_the_start_is_trusted_and_shown_at_once() -> None:
    old = authority()
    pair = leaf(old)

    assert Program().look(named(old), pair) == (named(old), pair)


def test_a_former_authority_stays_trusted_until_it_ends() -> None:
    program, old, new = Program(), authority(hours=24), authority(hours=48)
    program.look(named(old), leaf(old))

    trusted = program.roll_over.trust(named(new))
    program.clock.now += 24 * HOUR - 1
    late = program.roll_over.trust(named(new))
    program.clock.now += 1

    assert (trusted, late) == (named(new, old), named(new, old))
    assert program.roll_over.trust(named(new)) == named(new)


def test_a_new_certificate_waits_until_its_authority_can_be_known_elsewhere() -> None:
    program, old, new = Program(), authority(), authority()
    before, after = leaf(old), leaf(new)
    program.look(named(old), before)

    trusted, shown = program.look(named(new), after)
    program.clock.now += DELAY - 1
    waits = program.roll_over.is_due()
    program.clock.now += 1

    assert (trusted, shown, waits) == (named(new, old), before, False)
    assert program.roll_over.is_due()
    assert program.look(named(new), after) == (named(new, old), after)
    assert not program.roll_over.is_due()


def test_a_new_certificate_of_an_authority_that_is_long_known_is_shown_at_once() -> None:
    program, old, new = Program(), authority(), authority()
    program.look(named(old), leaf(old))
    program.roll_over.trust(named(old, new))
    program.clock.now += DELAY
    after = leaf(new)

    assert program.look(named(new), after) == (named(new, old), after)


def test_a_new_certificate_waits_no_longer_than_the_former_one_lives() -> None:
    program, old, new = Program(), authority(), authority()
    before, after = leaf(old, hours=1), leaf(new)
    program.look(named(old), before)
    program.clock.now += HOUR - DELAY - 1

    assert program.look(named(new), after)[1] == before
    program.clock.now += 1
    assert program.roll_over.is_due()
    assert program.look(named(new), after)[1] == after


def test_what_comes_back_before_it_was_shown_changes_nothing() -> None:
    program, old, new = Program(), authority(), authority()
    before = leaf(old)
    program.look(named(old), before)
    program.look(named(new), leaf(new))

    assert program.look(named(old), before)[1] == before
    program.clock.now += DELAY
    assert not program.roll_over.is_due()


def test_former_authorities_are_bounded_and_those_that_end_last_stay() -> None:
    program = Program()
    many = [authority(hours=24 + number) for number in range(MOST_FORMER + 4)]
    for each in many:
        program.roll_over.trust(named(each))

    trusted = certificates(program.roll_over.trust(named(authority())).decode())

    assert set(trusted[1:]) == set(certificates(named(*many[4:]).decode()))


def test_it_is_told_when_each_authority_ends_and_of_many_those_that_end_last() -> None:
    many = [authority(hours=24 + number) for number in range(MOST_TOLD + 4)]
    program = Program()
    program.roll_over.trust(b"# of our own\n" + named(*many))

    told = program.roll_over.authorities()

    expected = {fingerprint(pem([each.certificate])): ends(each.certificate) for each in reversed(many[4:])}
    assert (dict(told), list(told)) == (expected, list(expected))
    assert ending(named(*many).decode()) == told


# -- the files


class Folder:
    """Where the files of one program are."""

    def __init__(self, path: Path) -> None:
        self.cert, self.key, self.ca, self.other = (path / name for name in ("crt", "key", "ca", "other"))

    def write(self, bundle: bytes, pair: KeyPair) -> None:
        self.ca.write_bytes(bundle)
        self.cert.write_bytes(pair.chain)
        self.key.write_bytes(pair.key)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def trusted_by(context: ssl.SSLContext) -> set[bytes]:
    return set(context.get_ca_certs(binary_form=True))


def der(*authorities: Pair) -> set[bytes]:
    return {ssl.PEM_cert_to_DER_cert(pem([each.certificate])) for each in authorities}


def test_a_caller_trusts_what_every_file_names_and_an_absent_one_names_nobody(folder: Folder) -> None:
    old, new = authority(), authority()
    folder.write(named(old), leaf(old))
    credentials = Credentials(ca=folder.ca, also=(folder.other,), cert=folder.cert, key=folder.key)

    alone = trusted_by(credentials.context())
    folder.other.write_bytes(named(new))

    assert (alone, trusted_by(credentials.context())) == (der(old), der(old, new))


def test_a_pair_that_is_half_replaced_is_neither_shown_nor_remembered(folder: Folder) -> None:
    old = authority()
    before, after = leaf(old), leaf(old)
    folder.write(named(old), before)
    roll_over = RollOver(DELAY)
    credentials = Credentials(ca=folder.ca, cert=folder.cert, key=folder.key, roll_over=roll_over)
    credentials.load()
    folder.cert.write_bytes(after.chain)

    with pytest.raises(OSError, match=r"\S+ and \S+ are no certificate and its key in PEM: .*KEY_VALUES_MISMATCH"):
        credentials.load()
    folder.write(named(old), after)
    credentials.load()

    assert roll_over.show(after) == after
    assert not roll_over.is_due()


def test_the_allocator_remembers_and_waits_as_the_shim_does(folder: Folder) -> None:
    old, new = authority(hours=24), authority(hours=48)
    folder.write(named(old), leaf(old, hours=12))
    files = CertificateFiles(cert=folder.cert, key=folder.key, client_ca=folder.ca, also=(folder.other,), delay=DELAY)

    folder.write(named(new), leaf(new, hours=24))
    files.fresh()

    assert files.authorities() == ending(named(old, new).decode())
    assert files.expires == NOW + 12 * HOUR
