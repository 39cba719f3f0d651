"""The settings of the server: read from the environment once, checked, and frozen.

Read ``variables`` first, which declares each environment variable, then ``converters``, which make
values from the texts.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...errors import SettingsError
from ..parsing.builder import UrlRules
from . import variables as v
from .converters import TOKEN
from .variables import PREFIX, EnvironmentReader

__all__ = ["PREFIX", "TOKEN", "EtcdSettings", "ProcessSettings", "Settings"]

#: Characters that make a token long enough not to be guessed.
LONG_TOKEN = 16


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """How to reach etcd; used only if the source is a key in etcd.

    Attributes:
        user: User to log in as, or None for no login.
        password: Password of the user, or None.
        ca: PEM file of the authorities that etcd's certificate is verified against, or None for
            the system's authorities.
        cert: PEM file of the client certificate, or None for none.
        key: PEM file of the key of the client certificate, or None.
    """

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @property
    def tls(self) -> bool:
        """Whether requests to etcd use https: as soon as a certificate is named."""
        return bool(self.ca or self.cert)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the server's application.

    Attributes:
        source: Path of the endpoint file, or ``etcd://host:2379[,host:2379]/key``.
        rules: Protocol, paths and ports of the URLs that are generated from hosts.
        strict: Whether any error refuses the whole file.
        allow_empty: Whether a file without a usable entry may replace a list that has some.
        max_bytes: Limit of the file's size in bytes.
        poll_interval: Seconds between two comparisons of the source's content; 0 is never.
        state_dir: Folder for the last good list and the workers' state, or None for
            Flask's instance folder.
        max_age: Seconds that a client may keep an answer (``Cache-Control: max-age``).
        max_waiters: How many long polls may be parked in one worker, or None for the default of
            the worker class.
        cors_origins: Origins whose scripts may read the answers; ``("*",)`` is any.
        trusted_hosts: Values of the Host header that are accepted; empty accepts any.
        service_name: ``service`` in the answer to a health check.
        tokens: Access tokens that may do everything, in the clear.
        tokens_file: File of the digests of further access tokens, or None.
        probe_interval: Seconds between two checks of the served endpoints; 0 is never.
        alert_webhook: URL that is notified of outages, or None.
        alert_secret: Key that the notifications are signed with; empty means unsigned.
        etcd: How to reach etcd; used only if the source is a key in etcd.
        signing_key_file: File of the key that lists are signed with, or None.
        signing_ttl: Seconds for which a signed list is valid.
        warnings: Oddities of the environment that do not stop the server.
    """

    source: str = v.SOURCE.default
    rules: UrlRules = field(default_factory=UrlRules)
    strict: bool = v.STRICT.default
    allow_empty: bool = v.ALLOW_EMPTY.default
    max_bytes: int = v.MAX_BYTES.default
    poll_interval: float = v.POLL_INTERVAL.default
    state_dir: str | None = v.STATE_DIR.default
    max_age: int = v.MAX_AGE.default
    max_waiters: int | None = v.MAX_WAITERS.default
    cors_origins: tuple[str, ...] = v.CORS_ORIGINS.default
    trusted_hosts: tuple[str, ...] = v.TRUSTED_HOSTS.default
    service_name: str = v.SERVICE_NAME.default
    tokens: tuple[str, ...] = field(default=(), repr=False)
    tokens_file: str | None = v.TOKENS_FILE.default
    probe_interval: float = v.PROBE_INTERVAL.default
    alert_webhook: str | None = field(default=None, repr=False)
    alert_secret: bytes = field(default=b"", repr=False)
    etcd: EtcdSettings = field(default_factory=EtcdSettings)
    signing_key_file: str | None = v.SIGNING_KEY_FILE.default
    signing_ttl: float = v.SIGNING_TTL.default
    warnings: tuple[str, ...] = ()

    @property
    def guarded(self) -> bool:
        """Whether access tokens are configured, so that a request needs a valid token."""
        return bool(self.tokens) or self.tokens_file is not None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from environment variables; unset and empty mean the default.

        Raises:
            SettingsError: If a value cannot be used; it names the variable and the allowed values.
        """
        reader = EnvironmentReader(os.environ if environ is None else environ)
        settings = cls(
            source=reader.get(v.SOURCE),
            rules=_rules(reader),
            strict=reader.get(v.STRICT),
            allow_empty=reader.get(v.ALLOW_EMPTY),
            max_bytes=reader.get(v.MAX_BYTES),
            poll_interval=reader.get(v.POLL_INTERVAL),
            state_dir=reader.get(v.STATE_DIR) or _state_directory(reader),
            max_age=reader.get(v.MAX_AGE),
            max_waiters=reader.get(v.MAX_WAITERS),
            cors_origins=reader.get(v.CORS_ORIGINS),
            trusted_hosts=reader.get(v.TRUSTED_HOSTS),
            service_name=reader.get(v.SERVICE_NAME),
            tokens=_tokens(reader),
            tokens_file=reader.get(v.TOKENS_FILE),
            probe_interval=reader.get(v.PROBE_INTERVAL),
            alert_webhook=reader.get(v.ALERT_WEBHOOK),
            alert_secret=reader.get(v.ALERT_SECRET),
            etcd=_etcd(reader),
            signing_key_file=reader.get(v.SIGNING_KEY_FILE),
            signing_ttl=reader.get(v.SIGNING_TTL),
        )
        if settings.alert_webhook and not settings.probe_interval:
            reader.warnings.append(
                "ENDPOINT_ALERT_WEBHOOK is told nothing while ENDPOINT_PROBE_INTERVAL is 0"
            )
        return replace(settings, warnings=reader.finish())


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """The settings of gunicorn and its workers.

    Attributes:
        host: Address to listen at.
        port: Port to listen at; 0 takes a free one.
        workers: Number of worker processes.
        threads: Threads in each gthread worker.
        worker_class: ``gthread`` or ``sync``.
    """

    host: str = v.HOST.default
    port: int = v.PORT.default
    workers: int = v.WEB_CONCURRENCY.default
    threads: int = v.THREADS.default
    worker_class: str = v.WORKER_CLASS.default

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> "ProcessSettings":
        """Read ``HOST``, ``PORT``, ``WEB_CONCURRENCY``, ``THREADS`` and ``WORKER_CLASS``.

        Raises:
            SettingsError: If a value cannot be used; it names the variable and the allowed values.
        """
        reader = EnvironmentReader(os.environ if environ is None else environ)
        return cls(
            host=reader.get(v.HOST),
            port=reader.get(v.PORT),
            workers=reader.get(v.WEB_CONCURRENCY),
            threads=reader.get(v.THREADS),
            worker_class=reader.get(v.WORKER_CLASS),
        )


def _rules(reader: EnvironmentReader) -> UrlRules:
    return UrlRules(
        protocol=reader.get(v.PROTOCOL),
        api_path=reader.get(v.API_PATH),
        socket_path=reader.get(v.SOCKET_PATH),
        default_port=_default_port(reader),
        socket_port=reader.get(v.SOCKET_PORT),
    )


def _default_port(reader: EnvironmentReader) -> int | None:
    # The guide ignores a bad port; a warning tells the operator.
    try:
        return reader.get(v.DEFAULT_PORT)
    except SettingsError as error:
        reader.warnings.append(f"{error}; it is ignored")
        return None


def _state_directory(reader: EnvironmentReader) -> str | None:
    # systemd sets a colon-separated list for a unit with several state directories.
    return (reader.environ.get("STATE_DIRECTORY") or "").split(":")[0] or None


def _tokens(reader: EnvironmentReader) -> tuple[str, ...]:
    tokens = reader.get(v.TOKENS)
    if any(len(token) < LONG_TOKEN for token in tokens):
        reader.warnings.append(
            f"ENDPOINT_TOKENS has a token of less than {LONG_TOKEN} characters: it can be guessed"
        )
    return tokens


def _etcd(reader: EnvironmentReader) -> EtcdSettings:
    etcd = EtcdSettings(
        user=reader.get(v.ETCD_USER),
        password=reader.get(v.ETCD_PASSWORD),
        ca=reader.get(v.ETCD_CA),
        cert=reader.get(v.ETCD_CERT),
        key=reader.get(v.ETCD_KEY),
    )
    is_source = reader.get(v.SOURCE).startswith("etcd://")
    if is_source and etcd.password and not etcd.tls:
        reader.warnings.append(
            "ENDPOINT_ETCD_PASSWORD goes over the network in the clear: ENDPOINT_ETCD_CA or"
            " ENDPOINT_ETCD_CERT would encrypt it"
        )
    return etcd
