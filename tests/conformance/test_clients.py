"""The project's clients pass the suite, and clients with one fault fail the right vector."""

import pytest

from conformance.vectors import load

from ..conftest import need_program
from .runs import PYTHON_CLIENT, ROOT, mutant, run

#: Most vectors only wait, so more clients than processors can run at a time.
JOBS = ("--jobs", "4")


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
    example = ROOT / "conformance" / "example" / "client.mjs"
    done = run((node, str(example)), *JOBS)
    assert done.named("not ok") == set(), done.output
    assert done.status == 0
    minimal = {vector.title for vector in load() if vector.profile == "minimal"}
    assert done.named("ok") == minimal
    assert done.skipped == len(load()) - len(minimal)
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 300


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
