"""Headers, parameters, errors and security schemes that several routes share."""

from ....qr.text import CAPACITY
from ...serving.responder import MAX_WAIT, RETRY_AFTER
from .parts import Node, answer, array, header, members, query, ref, text, whole

_PROBLEM = "application/problem+json"
#: Up to three digits and six decimals, and no more than MAX_WAIT in all.
WAIT_PATTERN = r"^(0?[0-5]?[0-9](\.[0-9]{1,6})?|0?60(\.0{1,6})?)$"


def headers() -> dict[str, Node]:
    """Give the headers of answers."""
    retry = f"Seconds after which to come back, from {RETRY_AFTER[0]} to {RETRY_AFTER[1]}"
    described = {
        "ETag": "A strong tag of the contents (RFC 9110, 8.8.3), equal on every worker and node",
        "Last-Modified": "When the contents changed last",
        "Cache-Control": "How long the answer may be kept",
        "Vary": "What the answer depends on",
        "Preference-Applied": "`wait`: the server understands long polls",
        "Content-Encoding": "`gzip`, where the client takes it and it pays",
        "Content-Language": "The language of the page",
        "WWW-Authenticate": "How to show a token (RFC 6750, RFC 7617)",
    }
    always = {"ETag", "Last-Modified", "Cache-Control", "Vary", "Content-Language"}
    nodes: dict[str, Node] = {
        name: {"description": words, "schema": text(), "required": name in always}
        for name, words in described.items()
    }
    nodes["Retry-After"] = {"description": retry, "schema": whole(*RETRY_AFTER)}
    return nodes


def parameters() -> dict[str, Node]:
    """Give the parameters of requests."""
    return {
        "wait": query(
            "wait",
            f"Long poll: seconds, from 0 to {MAX_WAIT}, for which the answer may be held back "
            "while the list is the one that `If-None-Match` names",
            text(pattern=WAIT_PATTERN),
            example="30",
        ),
        "If-None-Match": header("If-None-Match", "Tags that the client has: 304 if one is true"),
        "If-Modified-Since": header(
            "If-Modified-Since",
            "304 if it is exactly the list's date, so that going back to an older file is seen",
        ),
        "Accept-Encoding": header("Accept-Encoding", "`gzip` gets a compressed list"),
    }


def errors() -> dict[str, Node]:
    """Give the answers that are errors, as problem documents."""
    described = {
        "BadRequest": "A parameter or the Authorization header is malformed, or the host name "
        "is not served here (TRUSTED_HOSTS)",
        "Unauthorized": "Tokens are set, and the request shows none that is good",
        "Forbidden": "No tokens are set, or the token is not an admin's",
        "NotFound": "There is no such thing here",
        "NotSigned": "No key is set (ENDPOINT_SIGNING_KEY_FILE)",
        "NoEndpoint": "There is no endpoint to put into a code",
        "TooLarge": "The request's body is too large",
        "NothingToSign": "The key cannot be used, or an empty list is served",
        "Failed": "The source could not be read",
        "Late": "Not every worker has answered in time",
        "ServerError": "The server failed to answer; its log says why",
    }
    nodes = {name: answer(words, {_PROBLEM: _body()}) for name, words in described.items()}
    nodes["Unauthorized"]["headers"] = {"WWW-Authenticate": ref("WWW-Authenticate", "headers")}
    nodes["Forbidden"]["headers"] = nodes["Unauthorized"]["headers"]
    waited = {name: ref(name, "headers") for name in ("Cache-Control", "Preference-Applied")}
    nodes["BadRequest"]["headers"] = {**nodes["Unauthorized"]["headers"], **waited}
    for name in ("NotSigned", "NothingToSign"):
        nodes[name]["headers"] = waited
    reports: Node = {"allOf": [ref("Problem"), ref("ReloadReport")]}
    for name in ("Failed", "Late"):
        nodes[name]["content"] = {_PROBLEM: {"schema": reports}}
    refused = [*reports["allOf"], members({"problems": array(ref("FileProblem"))})]
    nodes["Refused"] = answer(
        "The source is refused; what was served stays", {_PROBLEM: {"schema": {"allOf": refused}}}
    )
    nodes["TooLong"] = answer("What is asked for does not fit", {_PROBLEM: {"schema": _too_long()}})
    return nodes


def _body() -> Node:
    return {"schema": ref("Problem")}


def _too_long() -> Node:
    fits = members({"format": text(), "limit": whole(1)}, optional=("limit",))
    own = members(
        {
            "format": text(),
            "bytes": whole() | {"description": "What was asked for takes"},
            "capacity": whole(0, CAPACITY) | {"description": "Bytes that a code holds"},
            "fits": array(fits, description="What would fit"),
        }
    )
    return {"allOf": [ref("Problem"), own]}


def security_schemes() -> dict[str, Node]:
    """Give the ways to show a token."""
    return {
        "bearer": {"type": "http", "scheme": "bearer", "description": "RFC 6750"},
        "basic": {
            "type": "http",
            "scheme": "basic",
            "description": "For a browser: any name, and the token as the password; for GET only",
        },
    }
