"""The runner: faulty clients, reports and options."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from .runs import PYTHON_CLIENT, ROOT, mutant, run

GOOD = "failover: the best endpoint answers"
POST = "failover: POST ends with 502"
AFTER = "failover: POST ends with 503"
ONLY = [option for name in (GOOD, POST, AFTER) for option in ("--only", name)]


@pytest.mark.parametrize(
    ("name", "reason"), [("Dies", "died at request\n    out of luck"), ("PrintsRubbish", "no JSON")]
)
def test_a_client_that_fails_fails_that_vector_only(name: str, reason: str) -> None:
    """A client that dies fails its vector, and the next vector gets a new process."""
    done = mutant(name, *ONLY, "--jobs", "1")
    assert done.status == 1
    assert done.named("ok") == {GOOD}
    assert done.named("not ok") == {POST, AFTER}
    assert done.output.count(reason) == 2


def test_a_client_that_hangs_is_ended() -> None:
    """A client that does not answer in time is killed and fails its vector."""
    options = ("--patience", "8", "--slack", "0.1", "--jobs", "1")
    done = mutant("Hangs", "--only", GOOD, "--only", "qr: the single form", *options)
    assert done.named("not ok") == {GOOD}
    assert done.named("ok") == {"qr: the single form"}
    assert "hangs: no answer to request" in done.output


@pytest.mark.parametrize("command", [["/no/such/program"], ["/bin/true"], ["/bin/cat"]])
def test_a_command_that_is_no_client(command: list[str]) -> None:
    """A command that is no client fails every vector, without output on standard error."""
    done = run(command, *ONLY)
    assert done.status == 1
    assert len(done.named("not ok")) == 3
    assert done.errors == ""


def test_tap_and_junit_say_the_same(tmp_path: Path) -> None:
    """TAP and JUnit XML report the same failures, and TAP shows the observations."""
    path = tmp_path / "report.xml"
    done = mutant("RepeatsPosts", *ONLY, "--junit", str(path))
    first, plan, *_ = done.output.splitlines()
    assert (first, plan) == ("TAP version 14", "1..3")
    assert "step 1 (request): requests went to 'ab', not to 'a'" in done.output
    assert "the fleet saw: a POST /api/v1/thing; b POST /api/v1/thing" in done.output
    suites = ElementTree.parse(path).getroot()
    (suite,) = suites
    assert suite.attrib == {"name": "failover", "tests": "3", "failures": "2", "skipped": "0"}
    failed = {case.get("name") for case in suite if case.find("failure") is not None}
    assert {f"failover: {name}" for name in failed} == done.named("not ok")


def test_times_are_judged_last_and_lower_bounds_exactly() -> None:
    """A tiny ``--slack`` makes upper bounds of time fail, and nothing else."""
    names = ("many dead endpoints cost no time", "a slow answer within its time is taken")
    only = [option for name in names for option in ("--only", name)]
    done = run((*PYTHON_CLIENT, "sync"), *only, "--slack", "0.0001")
    assert done.named("not ok") == {f"scenarios: {names[0]}"}
    assert "more than 1.0 s (× 0.0001)" in done.output


def test_the_command_names_the_missing_package() -> None:
    """Without trustme the command ends with one line that says what to install."""
    code = "import runpy, sys; sys.modules['trustme'] = None; "
    code += "runpy.run_module('conformance', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith(": pip install trustme\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the client's command is missing"),
        (["--only", "no such vector", "--", "x"], "no vector has such a name"),
        (["--jobs", "0", "--", "x"], "must be more than 0"),
        (["--slack", "x", "--", "x"], "invalid"),
        (["--profile", "largest", "--", "x"], "invalid choice"),
        (["--junit", "no/such/file.xml", "--", "x"], "there is no folder no/such"),
    ],
)
def test_wrong_options(arguments: list[str], message: str) -> None:
    """Invalid options end with exit status 2 and a message."""
    command = [sys.executable, "-m", "conformance", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
