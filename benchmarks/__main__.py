"""``make bench``: run every benchmark and write ``benchmarks/RESULTS.md``."""

import os
from pathlib import Path

try:
    from . import failover, fleet, front, memory, overhead, push, reload, serve
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: install the dependency group bench (make bench does)") from None
from .report import options, versions

MODULES = {
    "serve": serve,
    "front": front,
    "push": push,
    "reload": reload,
    "memory": memory,
    "failover": failover,
    "overhead": overhead,
    "fleet": fleet,
}
RESULTS = Path(__file__).parent / "RESULTS.md"


def main() -> None:
    """Run all benchmarks or one, print their tables, and save them."""
    chosen = options(__doc__ or "", tuple(MODULES))
    parts = _kept() if chosen.only else {"": _head()}
    for name, module in MODULES.items():
        if chosen.only in {None, name}:
            for report in module.reports(chosen.quick):
                report.print()
                if report.rows or report.name not in parts:
                    parts[report.name] = report.markdown()
                if not chosen.quick:  # at once, so that a run that is cut off keeps its tables
                    RESULTS.write_text("\n".join(parts.values()))


def _head() -> str:
    named = ", ".join(f"{name} {number}" for name, number in versions().items())
    return (
        f"# Results\n\nMeasured with {named}, on {os.cpu_count()} cores."
        " Machines differ and are noisy: compare rows of one table, not of two runs.\n"
    )


def _kept() -> dict[str, str]:
    """Read the last run's tables by heading."""
    head, *sections = RESULTS.read_text().split("\n### ")
    named = {section.partition("\n")[0]: f"### {section}" for section in sections}
    return {"": head, **named}


if __name__ == "__main__":
    main()
