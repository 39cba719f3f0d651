"""Every public exception and value can be pickled and copied, as worker processes require."""

import copy
import os
import pickle
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mop_config import Endpoint, EndpointConfig, qr
from mop_config.client import EndpointState, ListSource, NoEndpointAvailable, Policy
from mop_config.client.pool.failover import FailedAttempt
from mop_config.errors import (
    AddressError,
    CodedError,
    MissingExtra,
    MopConfigError,
    PayloadError,
    QrTooLong,
    QrUnreadable,
    SettingsError,
    SignatureError,
    SigningKeyError,
    SourceError,
    UpdateFailed,
    UpdateRefused,
    UpdateUntrusted,
)
from mop_config.net.faults import Fault
from mop_config.server.settings import Settings

from ..ports import closed_port
from ..servers import ROOT

TRIALS = (FailedAttempt("https://a.example", Fault.REFUSED, 0.1),)
REQUEST = httpx2.Request("POST", "https://a.example/", content=b"body")

ERRORS: list[Exception] = [
    MopConfigError("what"),
    SettingsError("ENDPOINT_PROTOCOL", "ftp", "http or https"),
    CodedError("bad-host", "a message"),
    AddressError("bad-host", "a message"),
    PayloadError("api_endpoints[0].url", "a message"),
    QrTooLong("full", 9, 8, (("list", 2),)),
    QrUnreadable("a.png", "no code"),
    SourceError("missing", "a message", 3, 4),
    SigningKeyError("a message"),
    SignatureError("expired", "a message"),
    MissingExtra("signing", "signing"),
    UpdateFailed("invalid", (("https://a.example", "no list"),)),
    UpdateRefused("https://a.example", "it is empty"),
    UpdateUntrusted("https://a.example", "a message", "expired"),
    NoEndpointAvailable(TRIALS),
    NoEndpointAvailable(TRIALS, REQUEST),
    NoEndpointAvailable(),
]

ENDPOINT = Endpoint.parse("https://12.34.56.78/api", 3, "a.example")
VALUES: list[Any] = [
    ENDPOINT,
    EndpointConfig((ENDPOINT,), ()),
    Policy(min_dwell=1.0),
    ListSource("remote", "https://a.example", 3.0),
    EndpointState(
        "https://a.example", 0, True, 0, datetime.now(UTC), 0.1, None, "healthy", True, None
    ),
    *TRIALS,
    Fault.TLS,
    qr.parse('{"api_endpoints": ["https://a.example"]}'),
    Settings(),
]


def carried(thing: Any) -> list[Any]:
    """Return a copy of an object for each pickle protocol, ``copy`` and ``deepcopy``."""
    protocols = range(2, pickle.HIGHEST_PROTOCOL + 1)
    pickled = [pickle.loads(pickle.dumps(thing, protocol)) for protocol in protocols]
    return [*pickled, copy.copy(thing), copy.deepcopy(thing)]


def kinds_of(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(kinds_of(below) for below in kind.__subclasses__()))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_exceptions(error: Exception) -> None:
    """Copied exceptions keep their message, arguments, attributes and notes."""
    error.add_note("seen in a test")
    for again in carried(error):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.args == error.args
        assert again.__notes__ == error.__notes__
        about = {name: value for name, value in vars(error).items() if name != "_request"}
        assert {name: vars(again)[name] for name in about} == about


def test_the_request_comes_along() -> None:
    """A copied exception keeps its request without the body, as httpx2's exceptions do."""
    for again in carried(NoEndpointAvailable(TRIALS, REQUEST)):
        assert (again.request.method, again.request.url) == ("POST", REQUEST.url)
    for again in carried(NoEndpointAvailable(TRIALS)):
        with pytest.raises(RuntimeError):
            again.request  # noqa: B018 - as with httpx2's own


def test_none_is_forgotten() -> None:
    """``ERRORS`` contains every public exception outside of the command line and the server."""
    ours = {kind for kind in kinds_of(MopConfigError) if not kind.__name__.startswith("_")}
    public = {kind for kind in ours if kind.__module__.startswith("mop_config.")}
    public -= {kind for kind in public if kind.__module__.startswith("mop_config.cli.")}
    public -= {kind for kind in public if kind.__module__.startswith("mop_config.server.")}
    assert {type(error) for error in ERRORS} >= public


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values(value: Any) -> None:
    """Copied values equal the originals."""
    for again in carried(value):
        assert type(again) is type(value)
        assert again == value


SCRIPT = """
import sys
from concurrent.futures import ProcessPoolExecutor
from mop_config.client import EndpointManager, NoEndpointAvailable

def ask(url):
    manager = EndpointManager([url], trust_env=False, update_interval=0)
    with manager.client() as client:
        return client.get("/").text

if __name__ == "__main__":
    with ProcessPoolExecutor(1) as pool:
        for _ in range(2):
            try:
                pool.submit(ask, sys.argv[1]).result(60)
            except NoEndpointAvailable as error:
                print(error.attempts[0].url)
"""


def test_a_worker_process_hands_it_on(tmp_path: Path) -> None:
    """A worker process passes the exception to its parent, and the process pool goes on."""
    url = f"http://127.0.0.1:{closed_port()}"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, str(script), url],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ran.stdout.split() == [url, url], ran.stderr
