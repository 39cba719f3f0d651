"""Reports of a run: TAP version 14, JUnit XML, or progress on a terminal."""

import sys
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

from .play import Result


class Reporter:
    """Writes each result at once, as TAP or as a progress line with the failures.

    Args:
        total: Number of vectors.
        tap: Write TAP instead of a progress line.
    """

    def __init__(self, total: int, *, tap: bool) -> None:
        self._total = total
        self._tap = tap
        self.results: list[Result] = []
        self.counts: Counter[str] = Counter()
        if tap:
            print(f"TAP version 14\n1..{total}", flush=True)

    def add(self, result: Result) -> None:
        """Record and write the result of one vector."""
        self.results.append(result)
        self.counts[result.outcome] += 1
        number = len(self.results)
        failed, title, lines = result.outcome == "failed", result.vector.title, result.detail
        indented = "".join(f"    {line}\n" for line in lines.splitlines())
        if self._tap:
            skip = f" # SKIP {lines}" if result.outcome == "unsupported" else ""
            name = title.replace("#", "\\#")
            print(f"{'not ok' if failed else 'ok'} {number} - {name}{skip}")
            if failed:
                print(f"  ---\n  observed: |\n{indented}  ...")
        else:
            if failed:
                print(f"\r\x1b[KFAILED {title}\n{indented}", end="")
            counted = f"{number}/{self._total}, {self.counts['failed']} failed"
            print(f"\r\x1b[K{counted}  {title[:60]}", end="")
        sys.stdout.flush()

    def close(self, seconds: float) -> None:
        """Write the summary line."""
        counts = f"{self.counts['passed']} passed, {self.counts['failed']} failed, "
        line = f"{counts}{self.counts['unsupported']} not supported, in {seconds:.1f} s"
        print(f"# {line}" if self._tap else f"\r\x1b[K{line}", flush=True)


def write_junit(path: Path, results: Iterable[Result]) -> None:
    """Write the results as a JUnit XML file."""
    suites = ElementTree.Element("testsuites", name="failover protocol")
    for name, group in groupby(sorted(results, key=_suite), _suite):
        cases = list(group)
        outcomes = Counter(result.outcome for result in cases)
        suite = ElementTree.SubElement(suites, "testsuite", name=name, tests=str(len(cases)))
        suite.set("failures", str(outcomes["failed"]))
        suite.set("skipped", str(outcomes["unsupported"]))
        for result in cases:
            seconds = f"{result.seconds:.3f}"
            case = ElementTree.SubElement(suite, "testcase", name=result.vector.name, time=seconds)
            case.set("classname", name)
            if result.outcome == "failed":
                detail = "".join(c if c.isprintable() or c == "\n" else "?" for c in result.detail)
                failure = ElementTree.SubElement(case, "failure", message=detail.split("\n")[0])
                failure.text = detail
            elif result.outcome == "unsupported":
                ElementTree.SubElement(case, "skipped", message=result.detail)
    ElementTree.indent(suites)
    ElementTree.ElementTree(suites).write(path, encoding="utf-8", xml_declaration=True)


def _suite(result: Result) -> str:
    return result.vector.suite
