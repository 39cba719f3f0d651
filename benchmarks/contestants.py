"""The clients of the failover benchmark: each context manager yields a function for one request."""

import contextlib
import shutil
import ssl
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import elastic_transport
import httpx2
from redis.multidb.client import MultiDBClient
from redis.multidb.config import DatabaseConfig, MultiDbConfig

from mop_config.client import EndpointManager, Policy
from tests.client.fleet import Backend, fleet_in

from .faults import RedisServer, redis_pair

#: Sends one request; raises unless the answer is good.
Ask = Callable[[], None]
#: Seconds of a time-out that a careful user would set.
CAREFUL = 2.0


class Pair(NamedTuple):
    """A primary and a backup over HTTP, and the TLS context that verifies them."""

    primary: Backend
    backup: Backend
    verify: ssl.SSLContext | bool
    authority: str | None

    @property
    def urls(self) -> list[str]:
        """Return both API endpoints, the primary first."""
        return [self.primary.url, self.backup.url]


@contextlib.contextmanager
def http_pair(*, tls: bool) -> Iterator[Pair]:
    """Run two servers, with certificates of a test authority if ``tls``."""
    with tempfile.TemporaryDirectory() as name, fleet_in(Path(name)) as fleet:
        if not tls:
            yield Pair(*fleet.pair(), True, None)
            return
        authority = Path(name) / "authority.pem"
        fleet.authority.cert_pem.write_to_path(authority)
        yield Pair(*fleet.pair(tls=("127.0.0.1",)), fleet.trust(), str(authority))


def _check(status: int) -> None:
    if status != 200:
        raise ValueError(status)


def mop_config(policy: Policy) -> Callable[[Pair], AbstractContextManager[Ask]]:
    """Return our client with a policy."""

    @contextlib.contextmanager
    def run(pair: Pair) -> Iterator[Ask]:
        manager = EndpointManager(pair.urls, verify=pair.verify, update_interval=0, policy=policy)
        with manager, manager.client() as client:
            yield lambda: _check(client.get("/get").status_code)

    return run


def elastic(timeout: float | None) -> Callable[[Pair], AbstractContextManager[Ask]]:
    """Return elastic-transport's client, with its default time-out of 10 s or another."""

    @contextlib.contextmanager
    def run(pair: Pair) -> Iterator[Ask]:
        options: dict[str, Any] = {} if timeout is None else {"request_timeout": timeout}
        nodes = [
            elastic_transport.NodeConfig(
                "https" if server.tls else "http",
                "127.0.0.1",
                server.port,
                path_prefix="/api/v1",
                ca_certs=pair.authority,
                **options,
            )
            for server in (pair.primary, pair.backup)
        ]
        transport = elastic_transport.Transport(nodes, retry_on_timeout=True)
        with contextlib.closing(transport):
            yield lambda: _check(transport.perform_request("GET", "/get").meta.status)

    return run


@contextlib.contextmanager
def httpx2_retries(pair: Pair) -> Iterator[Ask]:
    """Yield httpx2 with its own retries, which know one server only."""
    transport = httpx2.HTTPTransport(verify=pair.verify, retries=3)
    with httpx2.Client(transport=transport, base_url=pair.primary.url) as client:
        yield lambda: _check(client.get("/get").status_code)


@contextlib.contextmanager
def by_hand(pair: Pair) -> Iterator[Ask]:
    """Yield the loop of a careful application, which stays at the last server that answered."""
    urls = pair.urls
    with httpx2.Client(verify=pair.verify, timeout=CAREFUL) as client:

        def ask() -> None:
            for _ in range(len(urls)):
                with contextlib.suppress(httpx2.TransportError):
                    if client.get(f"{urls[0]}/get").status_code == 200:
                        return
                urls.append(urls.pop(0))
            raise ValueError("none has answered")

        yield ask


@contextlib.contextmanager
def multi_db(pair: tuple[RedisServer, RedisServer]) -> Iterator[Ask]:
    """Yield redis-py's client for several databases, with its default settings."""
    databases = [
        DatabaseConfig(weight=weight, client_kwargs={"host": "127.0.0.1", "port": server.port})
        for weight, server in zip((1.0, 0.5), pair, strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # redis-py calls this client experimental
        client = MultiDBClient(MultiDbConfig(databases))
    with contextlib.closing(client):
        yield lambda: client.get("key")


@dataclass(frozen=True)
class Contestant:
    """A client of the benchmark.

    Attributes:
        name: Its name in the table.
        run: Returns the context manager that runs the client.
        recovers: Whether the client can use another server.
    """

    name: str
    run: Callable[[Any], AbstractContextManager[Ask]]
    recovers: bool = True


HTTP = (
    Contestant("mop-config", mop_config(Policy())),
    Contestant("elastic-transport", elastic(None)),
    Contestant(f"elastic-transport, request_timeout={CAREFUL:g}", elastic(CAREFUL)),
    Contestant("httpx2, retries=3", httpx2_retries, recovers=False),
    Contestant(f"httpx2, loop by hand, timeout={CAREFUL:g}", by_hand),
)
#: Our client with a spare connection, which helps where a fault costs milliseconds.
SPARE = (Contestant("mop-config, warm_spare", mop_config(Policy(warm_spare=True))),)
REDIS = (Contestant("redis-py, MultiDBClient", multi_db),)
HAS_REDIS = shutil.which("redis-server") is not None

__all__ = ["HAS_REDIS", "HTTP", "REDIS", "SPARE", "Ask", "Contestant", "http_pair", "redis_pair"]
