"""The failover cases for both drivers, read from the vectors of the conformance suite.

A case is one request to a pool of endpoints without history. The script names the endpoints in
order of priority (0, 1, 2 …). An endpoint follows its words, one word per attempt; the last word
repeats.

========  ====================================================================
word      what the endpoint does
========  ====================================================================
200 …     answers with this status
503+      answers 503 with ``Retry-After: 30`` (429+ likewise)
refused   refuses the connection
reset     reads the request and resets the connection (RST) without an answer
close     reads the request and closes the connection (FIN) without an answer
stall     reads the request and sends nothing until the client gives up: the read
          timeout must be longer than the hedge delay and shorter than the total timeout
========  ====================================================================
"""

from dataclasses import dataclass
from typing import Any

from conformance.vectors import Vector, load

#: Value of ``Retry-After``, in seconds, for a word that ends in ``+``.
RETRY_AFTER = 30
#: The httpx2 exception that each word causes in a request that must not be retried.
_ERRORS = {"reset": "ReadError", "close": "RemoteProtocolError", "stall": "ReadTimeout"}


@dataclass(frozen=True)
class Case:
    """One request with its expected attempts and result.

    Attributes:
        name: Name of the vector.
        script: Words of each endpoint, by endpoint name, best endpoint first.
        asked: The endpoints that the client tries, in order, including those that refuse.
        result: The status that the application gets, or the name of the exception: one of
            httpx2, or ``NoEndpointAvailable``.
        answered_by: The endpoint whose answer the application gets; None for an exception.
        method: The request's method.
        body: ``none``, ``bytes``, or ``stream`` for a body that can be read only once.
        keyed: Whether the request carries an ``Idempotency-Key``.
        warm: Whether the first endpoint answered an earlier GET with 200, outside the script,
            and keeps that connection open.
        budget: Capacity and initial fill of the policy's retry budget, in tokens.
    """

    name: str
    script: dict[str, tuple[str, ...]]
    asked: tuple[str, ...]
    result: int | str
    answered_by: str | None = None
    method: str = "GET"
    body: str = "none"
    keyed: bool = False
    warm: bool = False
    budget: float = 500.0

    @property
    def received(self) -> tuple[str, ...]:
        """The endpoints that receive the request, in order: those tried, without the refusing."""
        return tuple(name for name in self.asked if self.script[name] != ("refused",))


def _words(script: Any) -> tuple[str, ...]:
    if isinstance(script, dict) and script.get("connect") == "refuse":
        return ("refused",)
    words = script["requests"] if isinstance(script, dict) else script
    return tuple(f"{word['status']}+" if isinstance(word, dict) else str(word) for word in words)


def _case(vector: Vector) -> Case:
    script = {name: _words(each) for name, each in vector.fleet.items()}
    (request,) = (step for step in vector.steps if step.get("path") == "/thing")
    expected = request["expect"]
    last = vector.steps[-1].get("expect", {})
    untouched = {**last.get("states", {}), **last.get("usable", {})}
    # The vector lists only received requests, so insert refused dials by their priority.
    asked = list(expected["asked"])
    for name, words in script.items():
        if words == ("refused",) and name not in untouched:
            asked.insert(sum(each < name for each in asked), name)
    result: int | str = (
        expected.get("status")
        or {
            "unavailable": "NoEndpointAvailable",
            "failed": _ERRORS.get(script[asked[-1]][-1], "?"),
        }[expected["error"]]
    )
    body = "none"
    if "body" in request:
        body = "stream" if request.get("once") else "bytes"
    return Case(
        vector.name,
        script,
        tuple(asked),
        result,
        expected.get("from"),
        request["method"],
        body,
        "Idempotency-Key" in request.get("headers", {}),
        len([step for step in vector.steps if step["op"] == "request"]) > 1,
        vector.policy.get("budget", 500.0),
    )


CASES = tuple(_case(vector) for vector in load() if vector.suite == "failover")
