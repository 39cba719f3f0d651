"""One list of cases for the generator and for both drivers: outcomes in, attempts out.

Data only. A case is one request to a pool whose endpoints have the names of its script,
with priorities 0, 1, 2 … in its order, all fresh. Each endpoint does what its words say, one
word an attempt; the last word repeats.

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

#: Seconds in the ``Retry-After`` of a word that ends in ``+``.
RETRY_AFTER = 30


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
        turns: dict[str, int] = {}
        seen = []
        for name in self.asked:
            turn = turns.get(name, 0)
            turns[name] = turn + 1
            words = self.script[name]
            if words[min(turn, len(words) - 1)] != "refused":
                seen.append(name)
        return tuple(seen)


def _case(
    name: str,
    script: str,
    asked: str,
    result: int | str,
    answered_by: str | None = None,
    method: str = "GET",
    body: str = "none",
    keyed: bool = False,
    warm: bool = False,
    budget: float = 500.0,
) -> Case:
    """``script``: ``a:reset,200 b:200`` gives two words to a and one to b."""
    endpoints = {}
    for part in script.split():
        endpoint, _, words = part.partition(":")
        endpoints[endpoint] = tuple(words.split(","))
    return Case(
        name, endpoints, tuple(asked), result, answered_by, method, body, keyed, warm, budget
    )


CASES = (
    # -- answers of the application
    _case("the best endpoint answers", "a:200 b:200", "a", 200, "a"),
    _case("404 is the application's answer", "a:404 b:200", "a", 404, "a"),
    _case("500 is the application's answer", "a:500 b:200", "a", 500, "a"),
    _case("429 that names no time is the application's answer", "a:429 b:200", "a", 429, "a"),
    _case("501 is the application's answer", "a:501 b:200", "a", 501, "a"),
    # -- never sent: any request goes on
    _case("GET goes on from a dead primary", "a:refused b:200", "ab", 200, "b"),
    _case("POST goes on from a dead primary", "a:refused b:200", "ab", 200, "b", "POST", "bytes"),
    _case(
        "a stream that was never begun goes on from a dead primary",
        "a:refused b:200",
        "ab",
        200,
        "b",
        "POST",
        "stream",
    ),
    _case("two dead endpoints are passed", "a:refused b:refused c:200", "abc", 200, "c"),
    _case(
        "POST passes two dead endpoints",
        "a:refused b:refused c:200",
        "abc",
        200,
        "c",
        "POST",
        "bytes",
    ),
    _case("nobody answers", "a:refused b:refused c:refused", "abc", "NoEndpointAvailable"),
    _case("the only endpoint is dead", "a:refused", "a", "NoEndpointAvailable", None, "POST"),
    # -- perhaps executed: only what may be executed twice goes on
    _case("GET goes on after a reset", "a:reset b:200", "ab", 200, "b"),
    _case("GET goes on after a close", "a:close b:200", "ab", 200, "b"),
    _case("HEAD goes on after a reset", "a:reset b:200", "ab", 200, "b", "HEAD"),
    _case("PUT goes on after a reset", "a:reset b:200", "ab", 200, "b", "PUT", "bytes"),
    _case("DELETE goes on after a reset", "a:reset b:200", "ab", 200, "b", "DELETE"),
    _case("POST ends with a reset", "a:reset b:200", "a", "ReadError", None, "POST", "bytes"),
    _case(
        "POST ends with a close",
        "a:close b:200",
        "a",
        "RemoteProtocolError",
        None,
        "POST",
        "bytes",
    ),
    _case("PATCH ends with a reset", "a:reset b:200", "a", "ReadError", None, "PATCH", "bytes"),
    _case(
        "POST with a key goes on after a reset",
        "a:reset b:200",
        "ab",
        200,
        "b",
        "POST",
        "bytes",
        keyed=True,
    ),
    _case(
        "a stream that was sent ends with a reset",
        "a:reset b:200",
        "a",
        "ReadError",
        None,
        "PUT",
        "stream",
    ),
    _case(
        "a key does not bring a stream back",
        "a:reset b:200",
        "a",
        "ReadError",
        None,
        "POST",
        "stream",
        keyed=True,
    ),
    _case(
        "POST that went on from a dead primary ends with a reset",
        "a:refused b:reset c:200",
        "ab",
        "ReadError",
        None,
        "POST",
        "bytes",
    ),
    # -- statuses of a sick endpoint
    _case("GET goes on after 502", "a:502 b:200", "ab", 200, "b"),
    _case("GET goes on after 503", "a:503 b:200", "ab", 200, "b"),
    _case("GET goes on after 504", "a:504 b:200", "ab", 200, "b"),
    _case("POST ends with 502", "a:502 b:200", "a", 502, "a", "POST", "bytes"),
    _case("POST ends with 503", "a:503 b:200", "a", 503, "a", "POST", "bytes"),
    _case("PUT of a stream ends with 502", "a:502 b:200", "a", 502, "a", "PUT", "stream"),
    _case("the last answer is given if all are sick", "a:502 b:503 c:504", "abc", 504, "c"),
    _case("an answer is better than a dead end", "a:502 b:refused", "ab", 502, "a"),
    _case("an answer is better than a reset", "a:503 b:reset", "ab", 503, "a"),
    _case("the newer answer stands", "a:502 b:refused c:503", "abc", 503, "c"),
    _case("an application's answer ends the search", "a:502 b:404 c:200", "ab", 404, "b"),
    # -- a CDN's words for a server that it has not reached, or that did not answer well
    *(
        _case(f"GET goes on after {status}", f"a:{status} b:200", "ab", 200, "b")
        for status in (*range(520, 528), 530)
    ),
    *(
        _case(
            f"POST goes on after {status}: the server was not reached",
            f"a:{status} b:200",
            "ab",
            200,
            "b",
            "POST",
            "bytes",
        )
        for status in (521, 522, 523, 525, 526)
    ),
    *(
        _case(f"POST ends with {status}", f"a:{status} b:200", "a", status, "a", "POST", "bytes")
        for status in (520, 524, 527, 530)
    ),
    _case(
        "a stream that a CDN has taken ends with 521",
        "a:521 b:200",
        "a",
        521,
        "a",
        "POST",
        "stream",
    ),
    _case("POST is not asked twice", "a:522 b:502 c:200", "ab", 502, "b", "POST", "bytes"),
    # -- busy endpoints
    _case("GET goes on from a busy endpoint", "a:503+ b:200", "ab", 200, "b"),
    _case("GET goes on from a throttling endpoint", "a:429+ b:200", "ab", 200, "b"),
    _case("POST ends with 429", "a:429+ b:200", "a", 429, "a", "POST", "bytes"),
    _case("all busy: the last answer is given", "a:429+ b:503+", "ab", 503, "b"),
    # -- what it costs
    _case("the first move is free", "a:502 b:200", "ab", 200, "b", budget=0),
    _case("the first move on from a dead one is free", "a:refused b:200", "ab", 200, "b", budget=0),
    _case("the second move costs", "a:502 b:502 c:200", "ab", 502, "b", budget=0),
    _case(
        "the second move on from dead ones costs",
        "a:refused b:refused c:200",
        "ab",
        "NoEndpointAvailable",
        budget=0,
    ),
    _case("five tokens buy one move", "a:502 b:502 c:502 d:200", "abc", 502, "c", budget=5),
    _case("four tokens buy nothing", "a:502 b:502 c:200", "ab", 502, "b", budget=4),
    # -- connections that were kept
    _case("GET asks again after a kept connection", "a:reset,200 b:200", "aa", 200, "a", warm=True),
    _case("… once only", "a:reset b:200", "aab", 200, "b", warm=True),
    _case("… or goes on without a budget", "a:reset b:200", "ab", 200, "b", warm=True, budget=0),
    _case(
        "POST over a kept connection ends with a reset",
        "a:reset b:200",
        "a",
        "ReadError",
        None,
        "POST",
        "bytes",
        warm=True,
    ),
    # -- endpoints that say nothing
    _case("GET is asked elsewhere as well", "a:stall b:200", "ab", 200, "b"),
    _case("PUT goes on after its time", "a:stall b:200", "ab", 200, "b", "PUT", "bytes"),
    _case("POST ends after its time", "a:stall b:200", "a", "ReadTimeout", None, "POST", "bytes"),
    _case("nobody says anything", "a:stall b:stall", "ab", "NoEndpointAvailable", None, "DELETE"),
)
