"""The OpenAPI document matches every route and every answer."""

import copy
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from flask import Flask
from flask.testing import FlaskClient

from mop_config import EndpointConfig, __version__, create_app, init_app
from mop_config.health.state import HealthState
from mop_config.model.endpoint import MAX_ROOM_ID, QR_FORMATS, Difference, dumps
from mop_config.qr import CAPACITY, MAX_LIMIT
from mop_config.server.monitor.reports import FAULTS, MAX_COUNT
from mop_config.server.parsing.attributes import MAX_PRIORITY
from mop_config.server.parsing.parser import MAX_TEXT
from mop_config.server.parsing.problems import MAX_KEPT, Code, Severity
from mop_config.server.service import MAX_PLANNED
from mop_config.server.serving.responder import MAX_WAIT, RETRY_AFTER
from mop_config.server.serving.store import HISTORY, Result, SourceState, Trigger
from mop_config.server.settings import Settings
from mop_config.server.web.app import GUEST_PREFIX
from mop_config.server.web.views import document

from ..conftest import GUIDE_JSON, SAMPLE
from ..servers import ENDPOINTS, ROOT, running
from ..test_readme import blocks

TOKEN = "an-admins-token-0123456789"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
#: Schemas that `allOf` combines, so only the combination can be closed.
OPEN_SCHEMAS = {"Problem", "ReloadReport"}


def closed(node: Any) -> Any:
    """Return a copy in which no object allows an unnamed property."""
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "allOf" in node:
        return {**node, "unevaluatedProperties": False}
    shut = {name: closed(value) for name, value in node.items()}
    if node.get("type") == "object" and "properties" in node:
        shut.setdefault("additionalProperties", False)
    return shut


def strict(whole: dict[str, Any]) -> dict[str, Any]:
    """Return a copy in which everything that is not described is an error."""
    whole = copy.deepcopy(whole)
    schemas = whole["components"]["schemas"]
    kept = {name: schemas[name] for name in OPEN_SCHEMAS}
    whole["components"] = closed(whole["components"])
    whole["components"]["schemas"].update(kept)
    return whole


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(source=str(SAMPLE), state_dir=str(tmp_path / "state"))


def description(client: FlaskClient, **options: Any) -> dict[str, Any]:
    """Return the description that the application serves."""
    answer = client.get("/openapi.json", **options)
    assert answer.status_code == 200
    found: dict[str, Any] = json.loads(answer.data)
    return found


def described(app: Flask) -> set[tuple[str, str]]:
    """Return every operation of the served description."""
    paths = description(app.test_client())["paths"]
    return {(path, method) for path, operations in paths.items() for method in operations}


def routed(app: Flask) -> set[tuple[str, str]]:
    """Return every operation of ours that Flask routes, without the implied HEAD and OPTIONS."""
    return {
        (re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint not in {"static", "own", "mop_config.operation", "mop_config.home"}
    }


class TestDocument:
    """The document alone."""

    @pytest.mark.parametrize("guarded", [False, True])
    def test_it_is_openapi(self, guarded: bool) -> None:
        """The document is valid OpenAPI, and each example matches its schema."""
        # Each worker of the tests would spend a second on an import above.
        from openapi_spec_validator import OpenAPIV31SpecValidator

        assert list(OpenAPIV31SpecValidator(document(guarded=guarded)).iter_errors()) == []

    def test_each_component_is_used_and_each_operation_has_a_name(self) -> None:
        """Each component is used, and each operation has a unique id."""
        whole = document(guarded=True)
        text = json.dumps(whole)
        for section, components in whole["components"].items():
            for name in components:
                used = f'"#/components/{section}/{name}"' in text
                assert used or {name: []} in whole["security"], (section, name)
        names = re.findall(r'"operationId": "(\w+)"', text)
        assert len(names) == len(set(names)) == text.count('"operationId"')

    def test_the_examples_are_the_guides(self) -> None:
        """The examples of the list, the health answer and the codes are the guide's."""
        paths = document()["paths"]

        def content(path: str) -> Any:
            return paths[path]["get"]["responses"]["200"]["content"]["application/json"]

        health, listed, *codes = blocks((ROOT / "docs" / "guide.md").read_text(), "json")
        assert content(ENDPOINTS)["example"] == json.loads(listed) == GUIDE_JSON
        assert content("/health")["example"] == json.loads(health)
        examples = content("/api/v1/config/qr.json")["examples"].values()
        assert [example["value"] for example in examples] == [json.loads(code) for code in codes]

    def test_the_pattern_of_wait_is_what_the_server_takes(self, settings: Settings) -> None:
        """The pattern of ``wait`` accepts exactly the values that the server accepts."""
        pattern = document()["components"]["parameters"]["wait"]["schema"]["pattern"]
        client = create_app(settings, start=False).test_client()
        for whole in [*map(str, range(62)), "061", "060", "059", "00", "009", "099", "0000", "100"]:
            for rest in ("", ".", ".0", ".000000", ".000001", ".5", ".0000000"):
                wait = f"{whole}{rest}"
                taken = client.get(ENDPOINTS, query_string={"wait": wait}).status_code == 200
                assert taken == bool(re.search(pattern, wait)), wait


def constraints(node: Any, keyword: str, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value of a JSON Schema keyword with the name of its property or parameter."""
    if isinstance(node, list):
        for item in node:
            yield from constraints(item, keyword, name)
    if not isinstance(node, dict):
        return
    name = node["name"] if "in" in node else name
    if keyword in node and isinstance(node[keyword], (int, list)):
        yield name, node[keyword]
    for key, value in node.items():
        if key in {"properties", "headers", "schemas"}:
            for inner, schema in value.items():
                yield from constraints(schema, keyword, inner)
        elif not key.startswith("example"):
            yield from constraints(value, keyword, name)


#: The properties of a list, and the two kinds of endpoints.
LISTS = tuple(json.loads(dumps(EndpointConfig((), ()))))
KINDS = tuple(name.removesuffix("_endpoints") for name in LISTS)


class TestCopies:
    """The parts of the file that repeat the code are equal to the code."""

    def test_the_version(self) -> None:
        """The version is the package's version."""
        whole = document()
        assert whole["info"]["version"] == __version__
        for path in ("/health", "/api/v1/health"):
            answer = whole["paths"][path]["get"]["responses"]["200"]
            assert answer["content"]["application/json"]["example"]["version"] == __version__

    def test_the_enumerations(self) -> None:
        """Each enumeration equals the code's, and the file has no other enumeration."""
        expected: set[tuple[str, Iterable[str]]] = {
            ("change", ("added", "removed")),
            ("code", Code),
            ("counts", FAULTS),
            ("format", QR_FORMATS),
            ("kind", KINDS),
            ("result", Result),
            ("scope", ("host", "worker")),
            ("severity", Severity),
            ("state", HealthState),
            ("state", SourceState),
            ("trigger", Trigger),
        }
        found = {(name, frozenset(words)) for name, words in constraints(document(), "enum")}
        assert found == {(name, frozenset(map(str, words))) for name, words in expected}

    def test_the_limits(self) -> None:
        """Each limit equals the code's, and the file has no other limit."""
        whole = document()
        assert set(constraints(whole, "maximum")) == {
            ("Retry-After", RETRY_AFTER[1]),
            ("capacity", CAPACITY),
            ("counts", MAX_COUNT),
            ("limit", MAX_LIMIT),
            ("priority", MAX_PRIORITY),
            ("status", 599),
        }
        assert set(constraints(whole, "maxLength")) == {
            ("room_id", MAX_ROOM_ID),
            ("text", MAX_TEXT),
        }
        assert set(constraints(whole, "maxItems")) == {
            ("history", HISTORY),
            ("planned", MAX_PLANNED),
        }
        assert ("Retry-After", RETRY_AFTER[0]) in set(constraints(whole, "minimum"))

    def test_the_limits_in_words(self) -> None:
        """The numbers in the descriptions are the code's limits."""
        components = document()["components"]
        problems = components["schemas"]["Status"]["properties"]["problems"]
        assert re.findall(r"\d+", problems["description"]) == [str(MAX_KEPT)]
        retry_after = components["headers"]["Retry-After"]["description"]
        assert re.findall(r"\d+", retry_after) == [*map(str, RETRY_AFTER)]
        wait = components["parameters"]["wait"]["description"]
        assert re.findall(r"\d+", wait) == ["0", str(MAX_WAIT)]

    def test_the_members_of_records(self) -> None:
        """A change has the fields of ``Difference``: numbers, and lists of URLs."""
        schemas = document()["components"]["schemas"]
        change = schemas["Change"]["properties"]["change"]
        types = {int: "integer", tuple[str, ...]: "array"}
        hints = get_type_hints(Difference)
        assert change["required"] == list(hints)
        assert {name: schema["type"] for name, schema in change["properties"].items()} == {
            name: types[hint] for name, hint in hints.items()
        }
        assert schemas["EndpointList"]["required"] == [*LISTS]


class TestRoutes:
    """The document compared with the application."""

    def test_every_route_is_described_and_nothing_else(self, settings: Settings) -> None:
        """In our own application every route is described, and every described route exists."""
        app = create_app(settings, start=False)
        heads = {(path, "head") for path in (ENDPOINTS, f"{ENDPOINTS}.jws")}
        assert described(app) == routed(app) | heads

    def test_in_an_application_around_ours(self, settings: Settings) -> None:
        """In an application around ours only our routes are described.

        The dashboard is described if it is enabled.
        """
        app = Flask("guest")
        app.add_url_rule("/", "own", lambda: "own")
        init_app(app, settings, start=False)
        assert described(app) >= routed(app)
        for path in ("/health", "/ready", "/metrics", "/openapi.json", f"{GUEST_PREFIX}/"):
            assert (path, "get") in described(app)
            assert app.test_client().get(path).status_code == 200
        assert ("/", "get") not in described(app)

    def test_below_another_path(self, settings: Settings) -> None:
        """Below a mount point the server URL has the prefix, and the paths are relative."""
        client = create_app(settings, start=False).test_client()
        found = description(client, base_url="http://localhost/below/")
        assert found["servers"] == [{"url": "/below"}]
        assert found["paths"].keys() == document()["paths"].keys()

    def test_it_is_asked_for_again_only_when_it_has_changed(self, settings: Settings) -> None:
        """The document has an ETag, so an unchanged document is answered with 304."""
        client = create_app(settings, start=False).test_client()
        tag = client.get("/openapi.json").headers["ETag"]
        assert client.get("/openapi.json", headers={"If-None-Match": tag}).status_code == 304

    def test_it_says_whether_a_token_is_needed(self, tmp_path: Path) -> None:
        """The document says if a token is needed; the health routes need none."""
        guarded = Settings(source=str(SAMPLE), state_dir=str(tmp_path), tokens=(TOKEN,))
        client = create_app(guarded, start=False).test_client()
        found = description(client, headers=ADMIN)
        assert found["security"] == [{"bearer": []}, {"basic": []}]
        assert document()["security"] == []
        for path, operations in found["paths"].items():
            for operation in operations.values():
                needs_none = operation.get("security") == []
                assert needs_none == (client.open(path, method="GET").status_code == 200)


RELOAD = "/api/v1/config/reload"
#: Requests for each answer that a normal client does not get.
RARE: list[tuple[dict[str, Any], str, str, dict[str, str], int]] = [
    ({}, "GET", ENDPOINTS, {"Accept": "application/jose"}, 404),
    ({}, "GET", f"{ENDPOINTS}.jws", {}, 404),
    ({}, "GET", f"{ENDPOINTS}?wait=61", {}, 400),
    ({}, "GET", f"{ENDPOINTS}?wait=1&wait=1", {}, 400),
    ({}, "GET", f"{ENDPOINTS}?wait=1", {"If-None-Match": "*"}, 304),
    ({}, "GET", "/api/v1/config/qr.json?limit=1001", {}, 400),
    ({}, "GET", "/api/v1/config/keys", {}, 200),
    ({}, "POST", "/api/v1/config/reload", {}, 403),
    ({"source": "/nowhere"}, "GET", "/ready", {}, 503),
    ({"source": "/nowhere"}, "GET", "/api/v1/config/qr.svg", {}, 404),
    ({"source": "/nowhere"}, "GET", "/api/v1/config/status", {}, 200),
    ({"tokens": (TOKEN,)}, "GET", "/api/v1/config/status", {}, 401),
    ({"tokens": (TOKEN,)}, "GET", ENDPOINTS, {"Authorization": "Bearer  "}, 400),
    ({"tokens": (TOKEN,)}, "POST", RELOAD, {"Authorization": "Bearer  "}, 400),
    ({"tokens_file": "tokens"}, "POST", RELOAD, {"Authorization": f"Bearer {TOKEN}"}, 403),
    ({"tokens": (TOKEN,)}, "GET", "/metrics", {"Authorization": "Bearer wrong"}, 401),
    ({"tokens": (TOKEN,)}, "POST", "/api/v1/config/reload", {**ADMIN, "Content-Length": "0"}, 200),
    ({"tokens": (TOKEN,), "source": "/nowhere"}, "POST", "/api/v1/config/reload", ADMIN, 422),
    ({"trusted_hosts": ("a.example",)}, "GET", "/api/v1/health", {}, 400),
]


def assert_described(whole: dict[str, Any], path: str, method: str, answer: Any) -> None:
    """Check an answer against the document, with the validator of schemathesis."""
    import schemathesis

    schemathesis.openapi.from_dict(strict(whole))[path][method].validate_response(answer)


@pytest.mark.parametrize(
    ("changes", "method", "target", "headers", "status"),
    RARE,
    ids=[f"{method}-{target}-{status}" for _, method, target, _, status in RARE],
)
def test_rare_answers_are_described_too(
    tmp_path: Path,
    changes: dict[str, Any],
    method: str,
    target: str,
    headers: dict[str, str],
    status: int,
) -> None:
    """The bodies, to the last property, and the headers of rare answers are described."""
    if "tokens_file" in changes:
        (tmp_path / "tokens").write_text(f"app:{hashlib.sha256(TOKEN.encode()).hexdigest()}")
        changes = {"tokens_file": str(tmp_path / "tokens")}
    settings = Settings(**{"source": str(SAMPLE), "state_dir": str(tmp_path), **changes})
    client = create_app(settings, start=False).test_client()
    answer = client.open(target, method=method, headers=headers)
    assert answer.status_code == status, answer.text
    whole = document()
    path = target.partition("?")[0]
    assert_described(whole, path, method, answer)
    if status >= 400:
        reference = whole["paths"][path][method.lower()]["responses"][str(status)]
        name = reference.get("$ref", "").rpartition("/")[2]
        described = whole["components"]["responses"].get(name, reference).get("headers", {})
        for header in {"WWW-Authenticate", "Preference-Applied"} & set(answer.headers.keys()):
            assert header in described


def test_a_code_that_is_too_long(tmp_path: Path) -> None:
    """A list that is too long for a QR code gets 422 with the forms that would fit."""
    file = tmp_path / "endpoints.txt"
    file.write_text("DomainList:\n" + "".join(f"host-{n}.example.com\n" for n in range(200)))
    settings = Settings(source=str(file), state_dir=str(tmp_path / "state"))
    path = "/api/v1/config/qr.png"
    answer = create_app(settings, start=False).test_client().get(f"{path}?format=full")
    assert answer.status_code == 422
    assert_described(document(), path, "GET", answer)


def test_whatever_is_asked_the_answers_are_as_described(tmp_path: Path) -> None:
    """All checks of schemathesis pass on a server with tokens, a key, checks and problems."""
    file, key = tmp_path / "endpoints.txt", tmp_path / "key.json"
    file.write_text(SAMPLE.read_text() + "bad_host\n" + "ApiList:\nhttp://127.0.0.1:1/x\n")
    keygen = [sys.executable, "-m", "mop_config", "keygen", "--out", str(key)]
    subprocess.run(keygen, check=True, capture_output=True)
    (tmp_path / "openapi.json").write_text(json.dumps(strict(document(guarded=True))))
    with running(
        tmp_path,
        file,
        workers=0,  # the helper's wait for workers would need a token
        WEB_CONCURRENCY="1",
        ENDPOINT_TOKENS=TOKEN,
        ENDPOINT_SIGNING_KEY_FILE=str(key),
        ENDPOINT_PROBE_INTERVAL="30",
        ENDPOINT_MAX_WAITERS="0",
    ) as server:
        options = [
            *("--url", f"http://127.0.0.1:{server.port}"),
            *("--header", f"Authorization: {ADMIN['Authorization']}"),
            *("--checks", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", "2"),
            *("--generation-deterministic", "--no-color"),
        ]
        result = subprocess.run(
            [str(Path(sys.executable).parent / "schemathesis"), "run", "openapi.json", *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert result.returncode == 0, result.stdout[-20000:]
        operations = sum(map(len, document()["paths"].values()))
        assert f"Tested: {operations}\n" in result.stdout
        assert "Traceback" not in server.log
        assert TOKEN not in server.log
