"""The cases of the generator and of both drivers, read from the vectors of the conformance suite.

A case is one request to a pool whose endpoints have the names of its script, with priorities
0, 1, 2 … in its order, all fresh. Each endpoint does what its words say, one word an attempt; the
last word repeats.

========  ====================================================================
word      what the endpoint does
========  ====================================================================
200 …     it answers with this status
503+      it answers 503 with ``Retry-After: 30`` (and 429+ likewise)
refused   it refuses the connection
reset     it reads the request and resets the connection (RST) without an answer
close     it reads the request and closes the connection (FIN) without an answer
stall     it reads the request and says nothing until the client gives up: the read
          timeout must be longer than the hedge delay and shorter than the total
========  ====================================================================
"""

from dataclasses import dataclass
from typing import Any

from conformance.vectors import Vector, load

#: Seconds in the ``Retry-After`` of a word that ends in ``+``.
RETRY_AFTER = 30
#: The exception of httpx2 for a request that ends with this word and must not be repeated.
_ERRORS = {"reset": "ReadError", "close": "RemoteProtocolError", "stall": "ReadTimeout"}


@dataclass(frozen=True)
class Case:
    """One request, and how it must go.

    Attributes:
        name: What it shows.
        script: What each endpoint does, by its name, best endpoint first.
        asked: The endpoints that are tried, in their order, the refusing ones too.
        result: The status of the answer that the application gets, or the name of the
            exception: httpx2's, or ``NoEndpointAvailable``.
        answered_by: The endpoint whose answer it gets, or None.
        method: The request's method.
        body: ``none``, ``bytes``, or ``stream`` for one that can be read once only.
        keyed: Whether the request carries an ``Idempotency-Key``.
        warm: Whether the first endpoint has answered a request before (GET, 200, outside
            its script) over a connection that it keeps.
        budget: Tokens that the policy's budget begins with, and holds at most.
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
        """The endpoints that get to see the request, in their order."""
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
    # The fleet does not see a refused dial. Endpoints are dialled in their order.
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
