"""Compare the expectation of a step with the observation: results and counts, then times."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .fleet import Seen


@dataclass(frozen=True)
class Observed:
    """The observation of one step.

    Attributes:
        answer: The client's last answer.
        seen: The requests that the fleet has received during the step.
        seconds: Duration of the step.
        urls: The URL of each endpoint, by letter.
    """

    answer: dict[str, Any]
    seen: list[Seen]
    seconds: float
    urls: dict[str, str]

    @property
    def asked(self) -> str:
        """The letters of the endpoints that received application requests, in order."""
        return "".join(each.endpoint for each in self.seen if each.kind == "request")

    def letter(self, url: Any) -> Any:
        """Return the letter of an endpoint's URL, or the URL itself if no endpoint has it."""
        return next((name for name, each in self.urls.items() if each == url), url)


def judge(observed: Observed, expected: dict[str, Any], slack: float) -> Iterator[str]:
    """Yield a sentence for each difference between the expectation and the observation.

    Args:
        observed: The observation.
        expected: The expectation, with the fleet's URLs filled in.
        slack: Factor by which upper bounds of time are multiplied.
    """
    yield from _results(observed, expected)
    yield from _requests(observed, expected)
    if "within" in expected and observed.seconds > expected["within"] * slack:
        limit = f"{expected['within']} s (× {slack:g})"
        yield f"took {observed.seconds:.3f} s, more than {limit}"
    if observed.seconds < expected.get("not_before", 0.0):
        yield f"took {observed.seconds:.3f} s, less than {expected['not_before']} s"


#: Members of an expectation that are compared directly with the client's answer.
_PLAIN = ("status", "error", "code", "changed", "body", "room_id", "stale", "offline")


def _results(observed: Observed, expected: dict[str, Any]) -> Iterator[str]:
    answer = observed.answer
    if "error" in answer and "error" not in expected:
        yield f"error {answer['error']!r} ({answer.get('detail', '')})"
    found = {name: answer.get(name) for name in _PLAIN}
    found["from"] = observed.letter(answer.get("endpoint"))
    found["current"] = observed.letter(answer.get("current"))
    checks = [(name, expected[name], found[name]) for name in found if name in expected]
    for name in ("api_endpoints", "socketio_endpoints"):
        if name in expected:
            keys, listed = (expected[name] or [{}])[0], answer.get(name) or []
            got = [{key: each.get(key) for key in keys} for each in listed] if keys else listed
            checks.append((name, [expected[name]], got))
    endpoints = {observed.letter(e.get("url")): e for e in answer.get("api_endpoints") or []}
    for member, name in (("states", "state"), ("usable", "usable"), ("failures", "failures")):
        for letter, wanted in expected.get(member, {}).items():
            checks.append((f"{name} of {letter}", wanted, endpoints.get(letter, {}).get(name)))
    for about, wanted, value in checks:
        if not _equal(wanted, value):
            yield f"{about} is {value!r}, not {wanted!r}"


def _requests(observed: Observed, expected: dict[str, Any]) -> Iterator[str]:
    if "asked" in expected and not _equal(expected["asked"], observed.asked):
        yield f"requests went to {observed.asked!r}, not to {expected['asked']!r}"
    for bound in expected.get("counts", []):
        wanted = {key: bound[key] for key in bound if key not in {"min", "max"}}
        number = sum(wanted.items() <= vars(each).items() for each in observed.seen)
        least, most = bound.get("min", 0), bound.get("max", float("inf"))
        if not least <= number <= most:
            yield f"{number} × {wanted}, not {least} to {most}"
    for endpoint, headers in expected.get("sent", {}).items():
        got = [each.headers for each in observed.seen if each.endpoint == endpoint]
        for name, value in headers.items():
            last = got[-1].get(name) if got else None
            if not _equal(value, last):
                yield f"{endpoint} got {name}: {last!r}, not {value!r}"


def _equal(expected: Any, got: Any) -> bool:
    """Return whether the value equals the expected one, or any element of an expected array."""
    return got in expected if isinstance(expected, list) else got == expected
