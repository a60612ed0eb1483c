"""Profiles: how long hypothesis searches."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, Verbosity, settings


@dataclass(frozen=True)
class Profile:
    """A bound on the search.

    Attributes:
        name: "ci" or "thorough".
        examples: examples for a check of a law of effort 1.
        derandomize: whether every run draws the same examples, those of a check being its own.
    """

    name: str
    examples: int
    derandomize: bool

    def settings(self, effort: float) -> settings:
        """hypothesis' settings for a law of that effort."""
        return settings(
            max_examples=max(2, round(self.examples * effort)),
            derandomize=self.derandomize,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            print_blob=False,
            verbosity=Verbosity.quiet,
            phases=(Phase.generate, Phase.shrink),
            # Every example runs a model: slow by hypothesis' measure, and right.
            suppress_health_check=list(HealthCheck),
        )


PROFILES = {p.name: p for p in (Profile("ci", 6, True), Profile("thorough", 100, False))}


def seed_of_check(seed: int | None, family: str, check: str) -> int:
    """The seed of one check's search in a run with a seed, or in one that is derandomized.

    Each check has one of its own: with the same seed, or by hypothesis' derandomization, which knows the test function
    alone, every component and law would be tried on the same few settings.
    """
    words = (family, check) if seed is None else (str(seed), family, check)
    return zlib.crc32(" ".join(words).encode())


def profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        ValueError: no such profile.
    """
    if name not in PROFILES:
        raise ValueError(f"no profile {name!r}; there are {', '.join(PROFILES)}")
    return PROFILES[name]


def search_seed(name: str, asked: int | None) -> int | None:
    """The seed that a search under the profile takes: the one asked for, None where it is derandomized, else a fresh
    one, so that a report can say how to draw the same examples again."""
    if asked is not None or profile(name).derandomize:
        return asked
    return random.SystemRandom().randrange(2**32)
