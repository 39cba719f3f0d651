"""The vectors: their schema, and the pure functions of the Python client against them."""

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from conformance import PROTOCOL
from conformance.vectors import FOLDER, Vector, load
from mop_config import qr
from mop_config.errors import AddressError, PayloadError, SignatureError
from mop_config.model.endpoint import loads
from mop_config.model.jws import TrustedKeys, check_ahead

VECTORS = load()
DOCS = FOLDER.parent.parent / "docs"


def titled(*names: str) -> list[Any]:
    """Return the vectors of the named files as pytest parameters."""
    return [pytest.param(each, id=each.name) for each in VECTORS if each.suite in names]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_each_file_keeps_to_the_schema(path: Path) -> None:
    """Each file of vectors matches the JSON schema."""
    schema = json.loads((FOLDER.parent / "vector.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    document = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)


def test_names_are_unique_and_sections_exist() -> None:
    """Titles are unique, and each vector's section exists in docs/protocol.md."""
    assert max(Counter(vector.title for vector in VECTORS).values()) == 1
    protocol = (DOCS / "protocol.md").read_text(encoding="utf-8")
    assert f"version {PROTOCOL}" in protocol.splitlines()[0]
    sections = set(re.findall(r"^## (\d+)\.", protocol, re.MULTILINE))
    assert {vector.section for vector in VECTORS} <= sections


def test_there_are_enough_failover_scenarios() -> None:
    """There are at least 120 failover scenarios, 60 of them in the minimal profile."""
    scenarios = [vector for vector in VECTORS if vector.suite in {"failover", "scenarios"}]
    assert len(scenarios) >= 120
    assert sum(vector.profile == "minimal" for vector in scenarios) >= 60


def test_the_chinese_page_has_the_rules_of_the_minimal_profile() -> None:
    """The ten rules in docs/protocol.zh.md name the same statuses as the English ones."""
    english = (DOCS / "protocol.md").read_text(encoding="utf-8")
    section = english.partition("## 1. ")[2].partition("\n## 2. ")[0]
    chinese = (DOCS / "protocol.zh.md").read_text(encoding="utf-8").partition("\n## ")[0]
    for number in range(1, 11):
        rule = rf"^{number}\. \*\*.*?(?=^\d+\. \*\*|\Z)"
        own, other = (
            re.search(rule, text, re.MULTILINE | re.DOTALL) for text in (section, chinese)
        )
        assert own is not None
        assert other is not None
        statuses = [set(re.findall(r"\b[2-5]\d\d\b", match[0])) for match in (own, other)]
        assert statuses[0] == statuses[1], number


def served(vector: Vector) -> dict[str, Any]:
    """Return the scripted answer with the list that the vector's source serves."""
    word: dict[str, Any] = next(iter(vector.fleet["c"]["paths"].values()))[0]
    return word


def filled(value: Any) -> str:
    return json.dumps(value).replace("{c}", "https://127.0.0.1:9/c")


@pytest.mark.parametrize("vector", titled("lists"))
def test_lists_are_read_as_the_vectors_say(vector: Vector) -> None:
    """The codec reads or refuses each list; the scheme of API endpoints is checked later."""
    word = served(vector)
    text = word["text"] if "text" in word else filled(word["json"])
    if "error" not in vector.steps[0]["expect"] or vector.name.startswith("an API endpoint at wss"):
        assert loads(text).api_endpoints
        return
    with pytest.raises(PayloadError):
        loads(text)


@pytest.mark.parametrize("vector", titled("qr"))
def test_qr_texts_are_read_as_the_vectors_say(vector: Vector) -> None:
    """``qr.parse`` reads or refuses each text; two refusals happen only when it is applied."""
    step = vector.steps[0]
    text = step["text"].replace("{a}", "https://127.0.0.1:9/a").replace("{b}", "https://b.example")
    if "error" not in step.get("expect", {}):
        assert qr.parse(text).room_id == step.get("expect", {}).get(
            "room_id", qr.parse(text).room_id
        )
        return
    if vector.name in {
        "an empty kind cannot replace",
        "an API endpoint at wss is no QR text, and changes nothing",
    }:
        assert qr.parse(text) is not None
        return
    with pytest.raises((PayloadError, AddressError)):
        qr.parse(text)


def of_sources() -> list[Any]:
    """Return the vectors in which a client with keys fetches a signed list."""
    return [
        pytest.param(each, id=each.name)
        for each in VECTORS
        if each.suite == "jws" and each.steps[0]["op"] == "update"
    ]


@pytest.mark.parametrize("vector", of_sources())
def test_signed_lists_are_verified_as_the_vectors_say(vector: Vector) -> None:
    """Signed lists are verified or refused with the code that the vector expects."""
    expected = vector.steps[0]["expect"]
    keys = TrustedKeys(vector.init["trusted_keys"])
    now = time.time()

    def verify() -> None:
        check_ahead(keys.verify(served(vector)["text"], now), now)

    if "code" not in expected:
        if vector.name != "after an untrusted list the next source is asked":
            verify()
        return
    with pytest.raises(SignatureError) as caught:
        verify()
    assert caught.value.code == expected["code"]
