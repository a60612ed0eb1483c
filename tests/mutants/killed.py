"""Print how many mutants the conformance suite kills, which laws kill each, and what only one law finds.

python -m tests.mutants.killed                    # every check about the broken components
python -m tests.mutants.killed --seeds 5          # how often other examples than those of profile ci find it
python -m tests.mutants.killed --write            # writes docs/mutants.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from intervene.conformance import Outcome, Status, Subject, all_laws, generate_checks

from . import KINDS, MUTANTS
from .mutant import run

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "mutants.md"


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        mutant: its place in `MUTANTS`.
        named: the outcome of the check named in advance.
        laws: every law that kills it, in the suite's order.
        seeds: of how many other seeds the named check kills it.
    """

    mutant: int
    named: Outcome
    laws: tuple[str, ...]
    seeds: int

    @property
    def killed(self) -> bool:
        """Whether the check named in advance failed, for the reason given in advance."""
        return self.named.status is Status.FAILED and MUTANTS[self.mutant].says in self.named.message


def judge(index: int, seeds: int = 0) -> Verdict:
    """Run every check that concerns a mutant's broken components on it."""
    torch.set_num_threads(1)
    mutant = MUTANTS[index]
    checks = [c for c in generate_checks(Subject(mutant.adapter)) if mutant.concerns(c)]
    failed = [c for c in checks if mutant.fails(c.id) and _passes(mutant.original, c.id)]
    found = {c.law.id for c in failed}
    return Verdict(
        index,
        mutant.run(),
        tuple(law for law in all_laws() if law in found),
        sum(mutant.fails(mutant.killed_by, seed) for seed in range(seeds)),
    )


@cache
def _passes(adapter: type, check: str) -> bool:
    return run(adapter, check).status is Status.PASSED


def only_killers(verdicts: Iterable[Verdict]) -> dict[str, list[str]]:
    """For each law the mutants that no other law kills."""
    found: dict[str, list[str]] = {law: [] for law in all_laws()}
    for verdict in verdicts:
        if len(verdict.laws) == 1:
            found[verdict.laws[0]].append(MUTANTS[verdict.mutant].name)
    return found


def rate(verdicts: Sequence[Verdict]) -> str:
    """The kill rate in words."""
    killed = sum(v.killed for v in verdicts)
    return f"{killed} of {len(verdicts)} mutants are killed by the check named in advance, for the reason named."


def page(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as Markdown."""
    by_name = {MUTANTS[v.mutant].name: v for v in verdicts}
    lines = [
        "# Mutants",
        "",
        "The conformance suite is tested by adapters that are broken on purpose. Each one names in advance the check",
        "that has to find it; the check has to fail, say what is wrong, and pass on the same adapter without the bug.",
        "The code is in `tests/mutants/`; `python -m tests.mutants.killed --write` makes this page.",
        "",
        f"**{rate(verdicts)}**",
        "",
    ]
    for kind, group in KINDS.items():
        lines += [f"## {kind}", "", "| mutant | what is wrong | resembles | check | what the check says | other laws |"]
        lines += ["|---|---|---|---|---|---|"]
        for mutant in group:
            verdict = by_name[mutant.name]
            others = ", ".join(f"`{law}`" for law in verdict.laws if law != mutant.law)
            said = _short(verdict.named.message) if verdict.killed else "**survives**"
            cells = [f"`{mutant.name}`", mutant.wrong, mutant.like, f"`{mutant.killed_by}`", said, others]
            lines.append("| " + " | ".join(_cell(c) for c in cells) + " |")
        lines.append("")
    lines += ["## What only one law finds", "", "| law | kills | mutants that no other law kills |", "|---|---|---|"]
    for law, names in only_killers(verdicts).items():
        total = sum(law in v.laws for v in verdicts)
        lines.append(f"| `{law}` | {total} | {', '.join(f'`{n}`' for n in names)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _short(text: str, width: int = 240) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def show(verdicts: Sequence[Verdict], console: Console, seeds: int) -> None:
    """The verdicts as two tables and a sentence."""
    table = Table("mutant", "named law", "laws that kill it", *(["seeds"] if seeds else []), "message")
    for verdict in verdicts:
        mutant = MUTANTS[verdict.mutant]
        said = _short(verdict.named.message, 120) if verdict.killed else "[bold red]survives[/]"
        counted = [f"{verdict.seeds}/{seeds}"] if seeds else []
        table.add_row(mutant.name, mutant.killed_by, ", ".join(verdict.laws), *counted, said)
    console.print(table)
    redundancy = Table("law", "kills", "mutants that no other law kills")
    for law, names in only_killers(verdicts).items():
        redundancy.add_row(law, str(sum(law in v.laws for v in verdicts)), ", ".join(names) or "[red]none[/]")
    console.print(redundancy)
    console.print(rate(verdicts))


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Mutants to run; all by default.")] = None,
    write: Annotated[bool, typer.Option(help="Write docs/mutants.md.")] = False,
    seeds: Annotated[int, typer.Option(help="Also run the named check with so many other seeds.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Hold every mutant against the laws."""
    chosen = [i for i, mutant in enumerate(MUTANTS) if not names or mutant.name in names]
    if unknown := set(names or ()) - {m.name for m in MUTANTS}:
        raise typer.BadParameter(f"no mutant {', '.join(sorted(unknown))}")
    if write and names:
        raise typer.BadParameter("the page is about all mutants: leave their names out")
    console = Console()
    with ProcessPoolExecutor(jobs) as pool:
        running = pool.map(judge, chosen, [seeds] * len(chosen))
        verdicts = list(track(running, "Mutants", total=len(chosen), console=Console(stderr=True)))
    show(verdicts, console, seeds)
    if write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(verdicts), encoding="utf-8")
        console.print(f"wrote {PAGE.relative_to(ROOT)}")
    if not all(v.killed for v in verdicts):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
