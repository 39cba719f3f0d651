"""The project's clients pass the suite, and clients with one fault fail the right vector."""

from pathlib import Path

import pytest

from conformance.vectors import load

from ..conftest import need_program
from .runs import PYTHON_CLIENT, ROOT, mutant, run

#: Most vectors only wait, so more clients than processors can run at a time.
JOBS = ("--jobs", "4")
EXAMPLE = ROOT / "conformance" / "example" / "client.mjs"


@pytest.mark.slow
@pytest.mark.parametrize("half", ["sync", "async"])
def test_the_python_client_passes_the_full_profile(half: str) -> None:
    """The Python client passes every vector, with threads and with asyncio."""
    done = run((*PYTHON_CLIENT, half), *JOBS)
    assert done.named("not ok") == set(), done.output
    assert done.status == 0
    assert done.skipped == 0
    assert len(done.named("ok")) == len(load())
    assert done.errors == ""


@pytest.mark.slow
def test_the_example_passes_the_minimal_profile() -> None:
    """The JavaScript example of at most 300 lines passes the minimal profile."""
    node = need_program("node")
    done = run((node, str(EXAMPLE)), *JOBS)
    assert done.named("not ok") == set(), done.output
    assert done.status == 0
    minimal = {vector.title for vector in load() if vector.profile == "minimal"}
    assert done.named("ok") == minimal
    assert done.skipped == len(load()) - len(minimal)
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize(
    ("name", "vectors"),
    [
        ("RepeatsPosts", ["failover: POST ends with a reset", "failover: POST ends with 502"]),
        ("IgnoresRetryAfter", ["scenarios: 429 with Retry-After is obeyed by later requests"]),
        ("TakesOlder", ["jws: an older list is refused", "jws: a list of the same version"]),
        ("NeverFailsBack", ["scenarios: requests return to a primary that is back"]),
        (
            "ChecksNothing",
            ["health: good-check: healthy", "scenarios: requests return to a primary that is back"],
        ),
        ("LeavesAt500", ["failover: 500 is the application's answer"]),
        ("TakesUnsigned", ["jws: a plain list: not-signed", "jws: the signature of another list"]),
    ],
)
def test_a_fault_of_a_client_fails_by_name(name: str, vectors: list[str]) -> None:
    """The vector of the broken rule fails, and another vector passes with the same client."""
    others = "failover: the best endpoint answers"
    wanted = [option for each in (*vectors, others) for option in ("--only", each)]
    done = mutant(name, *wanted)
    assert done.status == 1
    failed = done.named("not ok")
    assert any(each.startswith(vectors[0]) for each in failed), done.output
    assert others in done.named("ok")


@pytest.mark.parametrize(
    ("rule", "broken", "vector"),
    [
        ("else endpoint.failures = 0;", "", "health: a good request resets the count"),
        (">= this.policy.healthy_after", ">= 1", "scenarios: one good check makes no"),
        (
            "response.status === 404",
            "false",
            "scenarios: requests return to a primary whose health",
        ),
        (", this.policy.max_retry_after)", ")", "scenarios: the longest Retry-After is bounded"),
        ("body instanceof ReadableStream", "false", "failover: PUT of a body that cannot be sent"),
        ('"manual", // never', '"follow", // never', "updates: a redirect from https to http"),
    ],
)
def test_a_broken_rule_of_the_minimal_profile_fails(
    tmp_path: Path, rule: str, broken: str, vector: str
) -> None:
    """A minimal client without one of the rules fails the vector of that rule."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.count(rule) == 1
    client = tmp_path / "client.mjs"
    client.write_text(text.replace(rule, broken), encoding="utf-8")
    done = run((need_program("node"), str(client)), "--only", vector, "--slack", "1")
    assert (done.status, done.skipped) == (1, 0), done.output
