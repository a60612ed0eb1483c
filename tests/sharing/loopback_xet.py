"""The hub's xet storage on this machine: enough of its protocol for `hf_xet` to up- and download against it.

As https://huggingface.co/docs/xet describes: files are cut into chunks, chunks are collected in xorbs, and a shard says
of which chunks of which xorbs each file consists. The client cuts, hashes, and puts together; here it is told not to
compress, so that this storage can hand out whole files too, as the real one does to clients without `hf_xet`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

TOKEN = "a-short-lived-token"
_RECORD = 48
_VERIFIED, _WITH_SHA256 = 1 << 31, 1 << 30


class Term(NamedTuple):
    """Chunks ``start`` to ``stop`` of a xorb, which a file has next, and how many bytes these are."""

    xorb: str
    start: int
    stop: int
    size: int


class File(NamedTuple):
    hash: str
    sha256: str
    terms: list[Term]

    @property
    def size(self) -> int:
        return sum(term.size for term in self.terms)


@dataclass
class Storage:
    """What was uploaded: xorbs by hash, and files by hash."""

    xorbs: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)

    def by_sha256(self, sha256: str) -> File | None:
        return next((file for file in self.files.values() if file.sha256 == sha256), None)

    def content(self, file: File) -> bytes:
        """A file put together.

        Raises:
            ValueError: a chunk is compressed.
        """
        parts = []
        for term in file.terms:
            xorb = self.xorbs[term.xorb]
            for start, end in pairwise([0, *_ends(xorb)][term.start : term.stop + 1]):
                if xorb[start + 4]:
                    raise ValueError(f"a chunk of xorb {term.xorb} is compressed")
                parts.append(xorb[start + 8 : end])
        return b"".join(parts)

    def add_shard(self, shard: bytes) -> None:
        """Take note of a shard's files.

        Raises:
            ValueError: one of them has chunks that were never uploaded.
        """
        for file in _files(shard):
            for term in file.terms:
                if term.xorb not in self.xorbs or term.stop > len(_ends(self.xorbs[term.xorb])):
                    raise ValueError(f"file {file.hash}: xorb {term.xorb} has no chunks {term.start} to {term.stop}")
            self.files[file.hash] = file

    def reconstruction(self, file: File, address: str) -> dict[str, Any]:
        """Where a file's chunks are to be fetched; xorbs are under ``address``."""
        fetch: dict[str, list[Any]] = {}
        for term in file.terms:
            ends = [0, *_ends(self.xorbs[term.xorb])]
            fetch.setdefault(term.xorb, []).append(
                {
                    "range": {"start": term.start, "end": term.stop},
                    "url": f"{address}/{term.xorb}",
                    "url_range": {"start": ends[term.start], "end": ends[term.stop] - 1},
                }
            )
        terms = [
            {"hash": t.xorb, "unpacked_length": t.size, "range": {"start": t.start, "end": t.stop}} for t in file.terms
        ]
        return {"offset_into_first_range": 0, "terms": terms, "fetch_info": fetch}


def _ends(xorb: bytes) -> list[int]:
    """Where each chunk of a xorb ends: a version, three bytes of length, a compression, three of length unpacked."""
    ends, at = [], 0
    while at + 8 <= len(xorb) and xorb[at] == 0:
        at += 8 + int.from_bytes(xorb[at + 1 : at + 4], "little")
        ends.append(at)
    return ends


def _files(shard: bytes) -> Iterator[File]:
    """The files of a shard: after a header a record for each, then its terms, and more as its flags say."""
    at = _RECORD
    while shard[at : at + 32] != b"\xff" * 32:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        name, at = _hex(shard[at : at + 32]), at + _RECORD
        terms = []
        for _ in range(count):
            _, size, start, stop = struct.unpack_from("<IIII", shard, at + 32)
            terms.append(Term(_hex(shard[at : at + 32]), start, stop, size))
            at += _RECORD
        at += count * _RECORD if flags & _VERIFIED else 0
        sha256 = _hex(shard[at : at + 32]) if flags & _WITH_SHA256 else ""
        at += _RECORD if flags & _WITH_SHA256 else 0
        yield File(name, sha256, terms)


def _hex(digest: bytes) -> str:
    """A hash as xet writes it: four numbers of eight bytes, the least significant first."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))
