"""Command-line flags as data: one table for `--help`, the environment and the tests.

Every flag `--some-flag` may also be given as `HOSTPORT_SOME_FLAG`; the command line wins over the environment.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: its name without dashes, its default as text, one line of help, and how its text is parsed."""

    name: str
    default: str | bool
    help: str
    parse: Callable[[str], Any] = str

    @property
    def env(self) -> str:
        return "HOSTPORT_" + self.name.upper().replace("-", "_")

    @property
    def attribute(self) -> str:
        return self.name.replace("-", "_")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or to connect. `[::1]:443` has host `::1`."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        return self.host in {"localhost", "::1"} or re.fullmatch(r"127(\.\d{1,3}){3}", self.host) is not None


def address(text: str) -> Address:
    """`host:port`; port 0 asks the kernel for a free one.

    Raises:
        ValueError: there is no port, or it is not in 0..65535.

    """
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return Address(host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port))  # noqa: S104 - as for Go's ":80"


def duration(text: str) -> float:
    """Seconds, from `300ms`, `5s`, `1m30s`, `2h` (as Go writes them) or a bare number of seconds.

    Raises:
        ValueError: the text is no duration.

    """
    units = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    if not re.fullmatch(r"([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+", text):
        raise ValueError(f"{text!r} is not a duration such as 300ms, 5s or 1m30s")
    return sum(float(n) * units[u] for n, u in re.findall(r"([0-9.]+)(ns|us|µs|ms|s|m|h)", text))


def files(text: str) -> tuple[Path, ...]:
    """Paths with commas between them."""
    return tuple(Path(each.strip()) for each in text.split(",") if each.strip())


def one_of(*values: str) -> Callable[[str], str]:
    """A parser of one of a few words."""

    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"{text!r} is none of {', '.join(values)}")
        return text

    return parse


def optional_file(text: str) -> Path | None:
    """A path; None where the text is empty."""
    return Path(text) if text else None


LEVELS = ("debug", "info", "warning", "error")


def log_level(text: str) -> str:
    """A level of the log, in capitals.

    Raises:
        ValueError: it is none.

    """
    if text.lower() not in LEVELS:
        raise ValueError(f"{text!r} is none of {', '.join(LEVELS)}")
    return text.upper()


ALSO_TRUST = Flag(
    "also-trust",
    "",
    "PEM files of further authorities, with commas; one that is absent names none",
    files,
)

CERTIFICATE_DELAY = Flag(
    "certificate-delay",
    "0s",
    "how long to show the former certificate once another authority is trusted",
    duration,
)


def add_flags(parser: argparse.ArgumentParser, flags: Sequence[Flag], environ: Mapping[str, str]) -> None:
    """Adds the flags with their environment variables as defaults.

    A value from the environment that does not parse is reported like one of the command line.
    """
    for flag in flags:
        if isinstance(flag.default, bool):
            text = environ.get(flag.env, "true" if flag.default else "false").lower()
            if text not in {"true", "false"}:
                parser.error(f"{flag.env} must be true or false, not {text!r}")
            parser.add_argument(
                f"--{flag.name}",
                dest=flag.attribute,
                action=argparse.BooleanOptionalAction,
                default=text == "true",
                help=flag.help,
            )
            continue
        parser.add_argument(
            f"--{flag.name}",
            dest=flag.attribute,
            metavar=flag.name.rsplit("-", 1)[-1].upper(),
            type=_reporting(flag.parse),
            default=environ.get(flag.env, flag.default),
            help=f"{flag.help} [{flag.env}; default: {flag.default or 'none'}]".replace("%", "%%"),
        )


def _reporting(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """argparse swallows the words of a ValueError; ours say what is wrong."""

    def parse_or_report(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_or_report
