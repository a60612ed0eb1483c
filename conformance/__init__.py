"""Conformance: the laws that an adapter and its spec must hold, and the checks that test them.

>>> from intervene.conformance import check_adapter
>>> check_adapter("gpt2").raise_if_failed()        # doctest: +SKIP
"""

from ..extras import needed

with needed("hypothesis", extra="conformance", by="the conformance suite"):
    import hypothesis as _hypothesis  # noqa: F401

from .checks import Check, check_adapter, generate_checks, run_check
from .html import to_html
from .law import Law, all_laws
from .markdown import to_markdown
from .outcome import Outcome, Report, Status
from .parametrize import parametrize_with_laws
from .profiles import PROFILES, Profile
from .subject import Subject
from .terminal import show
from .violation import Violation, tolerance

__all__ = [
    "PROFILES",
    "Check",
    "Law",
    "Outcome",
    "Profile",
    "Report",
    "Status",
    "Subject",
    "Violation",
    "all_laws",
    "check_adapter",
    "generate_checks",
    "parametrize_with_laws",
    "run_check",
    "show",
    "to_html",
    "to_markdown",
    "tolerance",
]
