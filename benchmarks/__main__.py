"""``make bench``: run every benchmark and write ``benchmarks/RESULTS.md``."""

import os
from pathlib import Path

from . import reload
from .report import options, versions

MODULES = (reload,)


def main() -> None:
    """Run all, print all, and keep the tables."""
    quick = options(__doc__ or "").quick
    named = ", ".join(f"{name} {number}" for name, number in versions().items())
    parts = [
        "# Results",
        "",
        f"Measured with {named}, on {os.cpu_count()} cores."
        " Machines differ and are noisy: compare rows of one table, not of two runs.",
        "",
    ]
    for module in MODULES:
        for report in module.reports(quick):
            report.print()
            parts.append(report.markdown())
    if not quick:
        (Path(__file__).parent / "RESULTS.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
