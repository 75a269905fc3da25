"""Node names: expand Slurm's list notation and format DeepSpeed's hostfile."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""A name of a job, partition, account or quality of service."""
LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = re.compile(rf"(?=.{{1,253}}\Z){LABEL}(?:\.{LABEL})*")
"""A host name (RFC 1123), with _ as in Docker's names. The programs that get it would take -oX as an option."""
_PIECE = re.compile(r"[^,\[\]]*(?:\[[^\[\]]*\][^,\[\]]*)*")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
MOST_NODES = 100_000


def expand(text: str) -> list[str]:
    """Return the node names in a list such as "gpu[01-04,07],login1", in order.

    Leading zeros are kept; several brackets give all combinations (rack[1-2]n[1-4]). Raises ValueError for text that
    is not a list of nodes.
    """
    names: list[str] = []
    position = 0
    while position <= len(text):
        match = _PIECE.match(text, position)
        piece = match.group() if match else ""
        end = position + len(piece)
        if not piece or text[end : end + 1] not in ("", ","):
            raise ValueError(f"hosts: {text!r} is not a list of nodes: write it as gpu[01-04,07],gpu12")
        names.extend(_expand_piece(piece, text))
        position = end + 1
    return names


def _expand_piece(piece: str, text: str) -> list[str]:
    names = [""]
    for part in re.split(r"(\[[^\]]*\])", piece):
        options = _numbers(part[1:-1], text) if part.startswith("[") else [part]
        if len(names) * len(options) > MOST_NODES:
            raise ValueError(f"hosts: {text!r} names more than {MOST_NODES} nodes: check its ranges")
        names = [name + option for name in names for option in options]
    for name in names:
        check_host(name)
    return names


def check_host(name: str) -> None:
    """Raise ValueError unless `name` is a host name or an IP address."""
    if HOST.fullmatch(name):
        return
    try:
        ip_address(name.replace("%", " "))  # no zone: it may hold anything
    except ValueError:
        raise ValueError(
            f"hosts: {name!r} is not a host name or an IP address: use letters, digits, dots, - and _, and neither "
            "begin nor end with -"
        ) from None


def _numbers(ranges: str, text: str) -> list[str]:
    numbers: list[str] = []
    for one in ranges.split(","):
        match = _RANGE.fullmatch(one)
        low, high = (match.group(1), match.group(2) or match.group(1)) if match else ("1", "0")
        if not 0 <= int(high) - int(low) < MOST_NODES:
            raise ValueError(f"hosts: the range {one!r} in {text!r} is not of the form 01-04")
        numbers += [f"{number:0{len(low)}d}" for number in range(int(low), int(high) + 1)]
    return numbers


def hostfile(names: Iterable[str], slots: int) -> str:
    """Return the text of DeepSpeed's hostfile: one line per node in rank order, with `slots` processes each."""
    return "".join(f"{name} slots={slots}\n" for name in names)
