"""The output of a benchmark: a Markdown table and a line of JSON."""

import argparse
import json
import platform
import signal
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any


class Report:
    """The rows of one benchmark.

    Args:
        name: Name of the measurement.
        note: Conditions that a reader needs to judge the figures.
    """

    def __init__(self, name: str, note: str) -> None:
        self.name = name
        self.note = note
        self.rows: list[dict[str, Any]] = []

    def add(self, **cells: Any) -> None:
        """Add a row; rows of one report may have different columns."""
        self.rows.append(cells)
        print(f"  {self.name}: {cells}", file=sys.stderr, flush=True)

    def markdown(self) -> str:
        """Return the table, with a heading and the note."""
        if not self.rows:
            return f"### {self.name}\n\n{self.note}\n"
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        lines = [
            f"### {self.name}",
            "",
            self.note,
            "",
            _line(columns),
            _line(["---"] * len(columns)),
        ]
        lines += [_line([_cell(row.get(column, "")) for column in columns]) for row in self.rows]
        return "\n".join(lines) + "\n"

    def print(self) -> None:
        """Print the table and the JSON line."""
        print(self.markdown())
        print(json.dumps({"name": self.name, "versions": versions(), "rows": self.rows}))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def versions() -> dict[str, str]:
    """Return the versions of the software that the figures depend on."""
    names = ("mop-config", "flask", "gunicorn", "watchdog")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that ``percent`` of a hundred values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return statistics.median(values)


def options(description: str, modules: Sequence[str] = ()) -> argparse.Namespace:
    """Parse a benchmark's command line: ``--quick`` takes a tenth of the time."""
    # A signal that ends a benchmark must also end the servers that it started.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(ending, lambda number, _: sys.exit(128 + number))
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller sizes")
    if modules:
        parser.add_argument("--only", choices=modules, help="run one, keep the others' results")
    return parser.parse_args()
