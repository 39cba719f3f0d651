"""Reports of a run: TAP version 14, JUnit XML, or progress on a terminal."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree

from .play import Result


class Reporter:
    """Writes each result at once, as TAP or as a progress line with the failures.

    Args:
        total: Number of vectors.
        tap: Write TAP instead of a progress line.
        stream: Stream that receives the report.
    """

    def __init__(self, total: int, *, tap: bool, stream: TextIO = sys.stdout) -> None:
        self._total = total
        self._tap = tap
        self._stream = stream
        self.results: list[Result] = []
        if tap:
            print(f"TAP version 14\n1..{total}", file=stream, flush=True)

    def add(self, result: Result) -> None:
        """Record and write the result of one vector."""
        self.results.append(result)
        number = len(self.results)
        if self._tap:
            self._write_tap(number, result)
            return
        if result.outcome == "failed":
            print(f"\r\x1b[KFAILED {result.vector.title}", file=self._stream)
            print("\n".join(f"    {line}" for line in result.detail.splitlines()))
        counted = f"{number}/{self._total}, {self.count('failed')} failed"
        print(f"\r\x1b[K{counted}  {result.vector.title[:60]}", end="", file=self._stream)
        self._stream.flush()

    def _write_tap(self, number: int, result: Result) -> None:
        word = "not ok" if result.outcome == "failed" else "ok"
        name = result.vector.title.replace("#", "\\#")
        skip = f" # SKIP {result.detail}" if result.outcome == "unsupported" else ""
        print(f"{word} {number} - {name}{skip}", file=self._stream)
        if result.outcome == "failed":
            print("  ---\n  observed: |", file=self._stream)
            for line in result.detail.splitlines():
                print(f"    {line}", file=self._stream)
            print("  ...", file=self._stream)
        self._stream.flush()

    def count(self, outcome: str) -> int:
        """Return the number of vectors with this outcome."""
        return sum(result.outcome == outcome for result in self.results)

    def close(self, seconds: float) -> None:
        """Write the summary line."""
        counts = f"{self.count('passed')} passed, {self.count('failed')} failed, "
        line = f"{counts}{self.count('unsupported')} not supported, in {seconds:.1f} s"
        print(f"# {line}" if self._tap else f"\r\x1b[K{line}", file=self._stream, flush=True)


def write_junit(path: Path, results: Iterable[Result]) -> None:
    """Write the results as a JUnit XML file."""
    suites = ElementTree.Element("testsuites", name="failover protocol")
    by_name: dict[str, ElementTree.Element] = {}
    for result in results:
        vector = result.vector
        suite = by_name.get(vector.suite)
        if suite is None:
            suite = by_name[vector.suite] = ElementTree.SubElement(
                suites, "testsuite", name=vector.suite, tests="0", failures="0", skipped="0"
            )
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=vector.suite,
            name=vector.name,
            time=f"{result.seconds:.3f}",
        )
        _increment(suite, "tests")
        if result.outcome == "failed":
            _increment(suite, "failures")
            detail = "".join(c if c.isprintable() or c == "\n" else "?" for c in result.detail)
            ElementTree.SubElement(case, "failure", message=detail.split("\n")[0]).text = detail
        elif result.outcome == "unsupported":
            _increment(suite, "skipped")
            ElementTree.SubElement(case, "skipped", message=result.detail)
    ElementTree.indent(suites)
    ElementTree.ElementTree(suites).write(path, encoding="utf-8", xml_declaration=True)


def _increment(element: ElementTree.Element, name: str) -> None:
    element.set(name, str(int(element.get(name, "0")) + 1))
