"""The settings of the server: read from the environment once, checked, and frozen.

Each field declares its variable in one place: default, converter and meaning. The variable of
``max_age`` is ``ENDPOINT_MAX_AGE``, unless the declaration names it. Read ``variables`` for the
declarations and the allowed values.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from ...model.address import MAX_PORT
from . import variables as to
from .variables import PREFIX, TOKEN, declared, read, setting, unknown

__all__ = ["PREFIX", "TOKEN", "EtcdSettings", "ProcessSettings", "Settings", "UrlRules"]


@dataclass(frozen=True, slots=True)
class UrlRules:
    """The rules by which a host becomes an API URL and a Socket.io URL.

    The port of the entry itself takes precedence over both ports. ``socket_port`` takes precedence
    over ``default_port``.
    """

    protocol: str = setting(
        "https", to.one_of("http", "https"), "scheme of generated URLs: `http` or `https`"
    )
    api_path: str = setting(
        "/api/v1", to.path, "path of generated API URLs; set but empty means none", keep_empty=True
    )
    socket_path: str = setting("", to.path, "path of generated Socket.io URLs", keep_empty=True)
    default_port: int | None = setting(
        None,
        to.number(1, MAX_PORT),
        "port of API URLs, and of Socket.io URLs while they have no path",
        lenient=True,
    )
    socket_port: int | None = setting(None, to.number(1, MAX_PORT), "port of Socket.io URLs")


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Credentials and TLS files for etcd; used only if the source is a key in etcd."""

    prefix: ClassVar[str] = "ENDPOINT_ETCD_"
    user: str | None = setting(None, str, "user of etcd")
    password: str | None = setting(None, str, "password of that user", secret=True)
    ca: str | None = setting(
        None,
        str,
        "PEM file of the authorities for etcd's certificate; with it or a client certificate,"
        " connections to etcd use TLS",
    )
    cert: str | None = setting(None, str, "PEM file of the client certificate for etcd")
    key: str | None = setting(None, str, "PEM file of the key of that certificate")

    @property
    def tls(self) -> bool:
        """Whether requests to etcd use https, which a CA or client certificate switches on."""
        return bool(self.ca or self.cert)


@dataclass(frozen=True)
class Settings:
    """The settings of the server's application; ``None`` and empty values mean "not set"."""

    source: str = setting(
        "config/endpoints.txt",
        to.source,
        "the endpoint file, or `etcd://host:2379[,host:2379]/key`",
        name="ENDPOINT_CONFIG_FILE",
    )
    rules: UrlRules = field(default_factory=UrlRules)
    strict: bool = setting(False, to.flag, "`1`: any error refuses the whole file")
    allow_empty: bool = setting(
        False, to.flag, "`1`: a file without a usable entry may replace a list that has some"
    )
    min_endpoints: int = setting(
        0,
        to.number(0, 100_000),
        "a file with fewer usable endpoints of a kind is refused, if some of that kind are served",
    )
    max_removed: float = setting(
        1.0,
        to.number(0.0, 1.0),
        "share of the endpoints of a kind, from 0 to 1, that one edit may remove without the line"
        " `# confirm: removes N api` (or `socket`) that the refusal names",
    )
    max_bytes: int = setting(1048576, to.number(1, 2**40), "maximum size of the file in bytes")
    poll_interval: float = setting(
        5.0,
        to.number(0.0, to.MAX_SECONDS),
        "seconds between two reads of the content, beside watching; `0` is never",
    )
    state_dir: str | None = setting(
        None,
        str,
        "the last good list and the workers' state, in a folder `records-UID` of mode 0700 that"
        " the server makes there",
    )
    max_age: int = setting(
        60, to.number(0, to.MAX_SECONDS), "seconds that a client may keep an answer"
    )
    max_waiters: int | None = setting(
        None,
        to.number(0, 1_000_000),
        "long polls parked in one worker; under gunicorn at most the default",
    )
    tokens: tuple[str, ...] = setting(
        (),
        to.tokens,
        "access tokens in the clear, separated by commas, that may do everything",
        secret=True,
    )
    tokens_file: str | None = setting(None, str, "file of the digests of further access tokens")
    # Checking more often than ten times a second would be an attack.
    probe_interval: float = setting(
        0.0,
        to.number(0.1, to.MAX_SECONDS),
        "seconds between two checks of the served endpoints, 0.1 or more; `0` is never",
    )
    health_path: str = setting(
        "/health",
        to.path,
        "path that a check requests: below the URL of an API endpoint, or at the root where that"
        " answers 404",
    )
    health_contains: str = setting(
        "", str, "text that the answer to a check must hold, beside its 2xx status"
    )
    reports: bool = setting(
        False,
        to.flag,
        "`1`: clients may report how often each endpoint answered them and failed them",
    )
    alert_webhook: str | None = setting(
        None,
        to.webhook,
        "URL that receives a message when every endpoint of a kind is down, and when one is back",
        secret=True,
    )
    alert_secret: bytes = setting(
        b"", to.webhook_secret, "key that signs these messages: `whsec_` and base64", secret=True
    )
    etcd: EtcdSettings = field(default_factory=EtcdSettings)
    signing_key_file: str | None = setting(None, str, "file of the key that signs the lists")
    signing_ttl: float = setting(
        7 * 86400.0,
        to.duration,
        "lifetime of a signed list: seconds, or a number with `m`, `h` or `d`",
    )
    cors_origins: tuple[str, ...] = setting(
        (), to.origins, "`*`, or a list of origins whose scripts may read the responses"
    )
    trusted_hosts: tuple[str, ...] = setting(
        (),
        to.hosts,
        "host names for which requests are answered, others get 400; a leading dot admits"
        " subdomains; with `127.0.0.1`, commands of this machine are answered, too",
        name="TRUSTED_HOSTS",
    )
    service_name: str = setting("mop-api", str, "`service` in `/health`", name="SERVICE_NAME")
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, variable in declared(type(self)):
            # Each character of a text would be a token, or a host.
            if isinstance(variable.default, tuple) and isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a tuple of texts, not a text")

    @cached_property
    def guarded(self) -> bool:
        """Whether access tokens are configured, so that a request needs a valid token."""
        return bool(self.tokens) or self.tokens_file is not None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from environment variables; unset and empty mean the default.

        Raises:
            SettingsError: If a value is not allowed; the error names the variable and the allowed
                values.
        """
        environ = os.environ if environ is None else environ
        warnings: list[str] = []
        values = read(cls, environ, warnings)
        values["rules"] = UrlRules(**read(UrlRules, environ, warnings))
        values["etcd"] = EtcdSettings(**read(EtcdSettings, environ, warnings))
        # systemd sets a colon-separated list for a unit with several state directories.
        by_systemd = environ.get("STATE_DIRECTORY", "").split(":")[0]
        values["state_dir"] = values["state_dir"] or by_systemd or None
        warnings += unknown(environ, cls, UrlRules, EtcdSettings)
        return cls(**values, warnings=tuple(warnings))


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """The settings of gunicorn and its workers."""

    prefix: ClassVar[str] = ""
    host: str = setting("127.0.0.1", to.bind_host, "address to listen at")
    port: int = setting(8000, to.number(0, MAX_PORT), "port to listen at; `0` takes a free one")
    workers: int = setting(2, to.number(1, 1024), "worker processes", name="WEB_CONCURRENCY")
    threads: int = setting(16, to.number(1, 4096), "threads in each worker")
    worker_class: str = setting(
        "asgi", to.one_of("asgi", "gthread", "sync"), "`asgi`, `gthread` or `sync`"
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> "ProcessSettings":
        """Read ``HOST``, ``PORT``, ``WEB_CONCURRENCY``, ``THREADS`` and ``WORKER_CLASS``.

        Raises:
            SettingsError: If a value is not allowed; the error names the variable and the allowed
                values.
        """
        return cls(**read(cls, os.environ if environ is None else environ, []))
