"""Adapters broken on purpose, each with the check that has to find it: the test of the conformance suite."""

from . import claims, core, generation, gradients, images, leaks, lenses, places, ports, state_space, towers
from .mutant import Mutant

KINDS: dict[str, list[Mutant]] = {
    "Wrong place": places.MUTANTS,
    "Wrong part": lenses.MUTANTS,
    "Wrong port": ports.MUTANTS,
    "Traces left": leaks.MUTANTS,
    "Wrong gradient": gradients.MUTANTS,
    "Wrong step of generation": generation.MUTANTS,
    "Wrong tower": towers.MUTANTS,
    "Wrong patch or token": images.MUTANTS,
    "Wrong part of a state-space model": state_space.MUTANTS,
    "Untrue claim": claims.MUTANTS,
    "Broken core": core.MUTANTS,
}
MUTANTS: list[Mutant] = [mutant for group in KINDS.values() for mutant in group]

__all__ = ["KINDS", "MUTANTS", "Mutant"]
