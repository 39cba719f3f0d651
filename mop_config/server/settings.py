"""What the environment says, read once, checked, and frozen."""

import base64
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TypeVar

from ..errors import AddressError, SettingsError
from ..model.address import (
    MAX_PORT,
    EtcdAddress,
    normalise_host,
    normalise_path,
    parse_url,
    without_userinfo,
)
from .parsing.builder import UrlRules

T = TypeVar("T")

PREFIX = "ENDPOINT_"
DEFAULT_SOURCE = "config/endpoints.txt"
MAX_SECONDS = 366 * 86400
MAX_WAITERS = 1_000_000
#: Seconds between two checks of an endpoint, at least: more is an attack.
MIN_INTERVAL = 0.1
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
#: A bearer token, RFC 6750.
TOKEN = re.compile(r"(?=.{1,512}$)[A-Za-z0-9._~+/-]+=*")
#: One that nobody guesses has so many characters.
LONG_TOKEN = 16
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """How to reach etcd, where the list comes from there.

    Attributes:
        user: Who to log in as, or None.
        password: With which password, or None.
        ca: File of the authorities that etcd's certificate is verified against, or None for
            the system's.
        cert: File of our certificate, or None.
        key: File of its key, or None.
    """

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @property
    def tls(self) -> bool:
        """Whether etcd is asked by https: as soon as a certificate is named."""
        return bool(self.ca or self.cert)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the server's application takes from the environment.

    Attributes:
        source: Path of the endpoint file, or ``etcd://host:2379[,host:2379]/key``.
        rules: How hosts become URLs.
        strict: Whether any error refuses the whole file.
        allow_empty: Whether a file without a usable entry may replace a list that has some.
        max_bytes: How large the file may be, in bytes.
        poll_interval: Seconds between two looks at the file's content; 0 is never.
        state_dir: Folder for the last good list and the workers' state, or None for
            Flask's instance folder.
        max_age: Seconds that a client may keep an answer (``Cache-Control: max-age``).
        max_waiters: How many long polls may be parked in one worker, or None for what suits
            its kind.
        cors_origins: Origins whose scripts may read the answers; ``("*",)`` is any.
        trusted_hosts: Host names that are answered; empty is any.
        service_name: ``service`` in the answer to a health check.
        tokens: Tokens that may do everything, in the clear.
        tokens_file: File of further tokens' digests, or None.
        probe_interval: Seconds between two checks of the served endpoints; 0 is never.
        alert_webhook: URL that is told of outages, or None.
        alert_secret: Key that such messages are signed with; empty for none.
        etcd: How to reach etcd, where the list comes from there.
        signing_key_file: File of the key that lists are signed with, or None.
        signing_ttl: Seconds for which a signed list holds.
        warnings: What was found odd, and passed over, while reading.
    """

    source: str = DEFAULT_SOURCE
    rules: UrlRules = field(default_factory=UrlRules)
    strict: bool = False
    allow_empty: bool = False
    max_bytes: int = 8388608
    poll_interval: float = 5.0
    state_dir: str | None = None
    max_age: int = 60
    max_waiters: int | None = None
    cors_origins: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    service_name: str = "mop-api"
    tokens: tuple[str, ...] = field(default=(), repr=False)
    tokens_file: str | None = None
    probe_interval: float = 0.0
    alert_webhook: str | None = field(default=None, repr=False)
    alert_secret: bytes = field(default=b"", repr=False)
    etcd: EtcdSettings = field(default_factory=EtcdSettings)
    signing_key_file: str | None = None
    signing_ttl: float = 7 * 86400.0
    warnings: tuple[str, ...] = ()

    @property
    def guarded(self) -> bool:
        """Whether tokens are set, so that a request has to show one."""
        return bool(self.tokens) or self.tokens_file is not None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from environment variables; unset and empty mean the default.

        Raises:
            SettingsError: Naming the variable, its value and what it may hold.
        """
        reader = _Reader(os.environ if environ is None else environ)
        settings = cls(
            source=reader.get("ENDPOINT_CONFIG_FILE", _source, DEFAULT_SOURCE),
            rules=_rules(reader),
            strict=reader.get("ENDPOINT_STRICT", _flag, False),
            allow_empty=reader.get("ENDPOINT_ALLOW_EMPTY", _flag, False),
            max_bytes=reader.get("ENDPOINT_MAX_BYTES", _number(1, 2**40), 8388608),
            poll_interval=reader.get("ENDPOINT_POLL_INTERVAL", _seconds, 5.0),
            state_dir=reader.get("ENDPOINT_STATE_DIR", str, None) or _state_directory(reader),
            max_age=reader.get("ENDPOINT_MAX_AGE", _number(0, MAX_SECONDS), 60),
            max_waiters=reader.get("ENDPOINT_MAX_WAITERS", _number(0, MAX_WAITERS), None),
            cors_origins=reader.get("ENDPOINT_CORS_ORIGINS", _origins, ()),
            trusted_hosts=reader.get("TRUSTED_HOSTS", _hosts, ()),
            service_name=reader.get("SERVICE_NAME", str, "mop-api"),
            tokens=_all_tokens(reader),
            tokens_file=reader.get("ENDPOINT_TOKENS_FILE", _file, None),
            probe_interval=reader.get("ENDPOINT_PROBE_INTERVAL", _interval, 0.0),
            alert_webhook=reader.get("ENDPOINT_ALERT_WEBHOOK", _webhook, None, secret=True),
            alert_secret=reader.get("ENDPOINT_ALERT_SECRET", _webhook_secret, b"", secret=True),
            etcd=_etcd(reader),
            signing_key_file=reader.get("ENDPOINT_SIGNING_KEY_FILE", _file, None),
            signing_ttl=reader.get("ENDPOINT_SIGNING_TTL", _duration, 7 * 86400.0),
        )
        if settings.alert_webhook and not settings.probe_interval:
            reader.warnings.append(
                "ENDPOINT_ALERT_WEBHOOK is told nothing while ENDPOINT_PROBE_INTERVAL is 0"
            )
        return replace(settings, warnings=reader.finish())


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """What gunicorn takes from the environment.

    Attributes:
        host: Address to listen at.
        port: Port to listen at; 0 takes a free one.
        workers: Number of worker processes.
        threads: Threads in each gthread worker.
        worker_class: ``gthread``, ``sync`` or ``gevent``.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 2
    threads: int = 16
    worker_class: str = "gthread"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> "ProcessSettings":
        """Read ``HOST``, ``PORT``, ``WEB_CONCURRENCY``, ``THREADS`` and ``WORKER_CLASS``.

        Raises:
            SettingsError: Naming the variable, its value and what it may hold.
        """
        reader = _Reader(os.environ if environ is None else environ)
        return cls(
            host=reader.get("HOST", _bind_host, "127.0.0.1"),
            port=reader.get("PORT", _number(0, MAX_PORT), 8000),
            workers=reader.get("WEB_CONCURRENCY", _number(1, 1024), 2),
            threads=reader.get("THREADS", _number(1, 4096), 16),
            worker_class=reader.get("WORKER_CLASS", _worker_class, "gthread"),
        )


class _InvalidError(Exception):
    """Holds what would be allowed instead."""


class _Reader:
    """Takes variables out of an environment and remembers which ones exist."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.known: set[str] = set()
        self.warnings: list[str] = []

    def raw(self, name: str) -> str | None:
        """Give the value as it stands, or None where the variable is not set."""
        self.known.add(name)
        return self.environ.get(name)

    def get(self, name: str, convert: Callable[[str], T], default: T, *, secret: bool = False) -> T:
        """Give the converted value, or the default where none or an empty one is set."""
        value = (self.raw(name) or "").strip()
        if not value:
            return default
        try:
            return convert(value)
        except _InvalidError as error:
            shown = "***" if secret else without_userinfo(value)
            raise SettingsError(name, shown, str(error)) from None

    def finish(self) -> tuple[str, ...]:
        """Warn of each variable with our prefix that nobody asked for."""
        for name in sorted(self.environ):
            if not name.startswith(PREFIX) or name in self.known:
                continue
            near = get_close_matches(name, sorted(self.known), n=1, cutoff=0.0)
            self.warnings.append(f"{name} is not a known variable: did you mean {near[0]}?")
        return tuple(self.warnings)


def _rules(reader: _Reader) -> UrlRules:
    return UrlRules(
        protocol=reader.get("ENDPOINT_PROTOCOL", _one_of("http", "https"), "https"),
        api_path=_path(reader, "ENDPOINT_API_PATH", "/api/v1"),
        socket_path=_path(reader, "ENDPOINT_SOCKET_PATH", ""),
        default_port=_default_port(reader),
        socket_port=reader.get("ENDPOINT_SOCKET_PORT", _number(1, MAX_PORT), None),
    )


def _path(reader: _Reader, name: str, default: str) -> str:
    value = reader.raw(name)
    if value is None:
        return default
    path = value.strip()
    if path and not path.startswith("/"):
        path = "/" + path
    try:
        if "://" in path:
            raise AddressError("bad-url", "a whole URL")
        return normalise_path(path)
    except AddressError as error:
        allowed = f"a URL path such as /api/v1, without '?' or '#' ({error.message})"
        raise SettingsError(name, value, allowed) from None


def _default_port(reader: _Reader) -> int | None:
    # The guide ignores a port that is none; a warning tells the operator.
    try:
        return reader.get("ENDPOINT_DEFAULT_PORT", _number(1, MAX_PORT), None)
    except SettingsError as error:
        reader.warnings.append(f"{error}; it is ignored")
        return None


def _state_directory(reader: _Reader) -> str | None:
    # systemd hands over a colon-separated list where a unit has several.
    return (reader.environ.get("STATE_DIRECTORY") or "").split(":")[0] or None


def _source(value: str) -> str:
    if value.startswith("etcd://"):
        try:
            return EtcdAddress.parse(value).text
        except AddressError as error:
            raise _InvalidError(f"etcd://host:2379[,host:2379]/key ({error.message})") from None
    if "://" in value:
        raise _InvalidError("the path of a file, or etcd://host:2379[,host:2379]/key")
    return _file(value)


def _file(value: str) -> str:
    if "\0" in value:
        raise _InvalidError("a path without NUL")
    return value


def _tokens(value: str) -> tuple[str, ...]:
    tokens = tuple(token.strip() for token in value.split(","))
    if not all(map(TOKEN.fullmatch, tokens)):
        raise _InvalidError(
            "a list, separated by commas, of tokens: A-Z a-z 0-9 - . _ ~ + / and = at the end"
        )
    return tokens


def _all_tokens(reader: _Reader) -> tuple[str, ...]:
    tokens: tuple[str, ...] = reader.get("ENDPOINT_TOKENS", _tokens, (), secret=True)
    if any(len(token) < LONG_TOKEN for token in tokens):
        reader.warnings.append(
            f"ENDPOINT_TOKENS has a token of less than {LONG_TOKEN} characters: it can be guessed"
        )
    return tokens


def _webhook(value: str) -> str:
    address, mark, query = value.partition("?")
    try:
        if not query.isascii() or not query.isprintable() or " " in query or "#" in query:
            raise AddressError("bad-url", "the query holds a character that no query may hold")
        return parse_url(address, ("http", "https"), underscores=True).text + mark + query
    except AddressError as error:
        raise _InvalidError(f"an http or https URL ({error.message})") from None


def _webhook_secret(value: str) -> bytes:
    try:
        key = base64.b64decode(value.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not 24 <= len(key) <= 64:
        raise _InvalidError("24 to 64 bytes in base64, with whsec_ before them or without")
    return key


def _duration(value: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", value)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 60 <= seconds <= MAX_SECONDS:
        raise _InvalidError(f"60 to {MAX_SECONDS} seconds, or a number with m, h or d, such as 7d")
    return float(seconds)


def _etcd(reader: _Reader) -> EtcdSettings:
    etcd = EtcdSettings(
        user=reader.get("ENDPOINT_ETCD_USER", str, None),
        password=reader.get("ENDPOINT_ETCD_PASSWORD", str, None, secret=True),
        ca=reader.get("ENDPOINT_ETCD_CA", _file, None),
        cert=reader.get("ENDPOINT_ETCD_CERT", _file, None),
        key=reader.get("ENDPOINT_ETCD_KEY", _file, None),
    )
    asked = (reader.raw("ENDPOINT_CONFIG_FILE") or "").strip().startswith("etcd://")
    if asked and etcd.password and not etcd.tls:
        reader.warnings.append(
            "ENDPOINT_ETCD_PASSWORD goes over the network in the clear: ENDPOINT_ETCD_CA or"
            " ENDPOINT_ETCD_CERT would encrypt it"
        )
    return etcd


def _flag(value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise _InvalidError("0 or 1")


def _number(low: int, high: int) -> Callable[[str], int]:
    def convert(value: str) -> int:
        if re.fullmatch(r"[0-9]{1,18}", value) and low <= int(value) <= high:
            return int(value)
        raise _InvalidError(f"a whole number from {low} to {high}")

    return convert


def _seconds(value: str) -> float:
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) and float(value) <= MAX_SECONDS:
        return float(value)
    raise _InvalidError(f"a number of seconds from 0 to {MAX_SECONDS}")


def _interval(value: str) -> float:
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        seconds = float(value)
        if seconds == 0 or MIN_INTERVAL <= seconds <= MAX_SECONDS:
            return seconds
    raise _InvalidError(f"0 for never, or a number of seconds from {MIN_INTERVAL} to {MAX_SECONDS}")


def _one_of(*allowed: str) -> Callable[[str], str]:
    def convert(value: str) -> str:
        if value.lower() in allowed:
            return value.lower()
        raise _InvalidError("one of " + ", ".join(allowed))

    return convert


_worker_class = _one_of("gthread", "sync", "gevent")


def _split(value: str) -> list[str]:
    return [item for item in re.split(r"[\s,]+", value) if item]


def _origins(value: str) -> tuple[str, ...]:
    items = _split(value)
    if items == ["*"]:
        return ("*",)
    return tuple(_origin(item) for item in items)


def _origin(item: str) -> str:
    try:
        url = parse_url(item, ("http", "https"), underscores=True)
    except AddressError as error:
        raise _InvalidError(
            f"* or a list of origins such as https://app.example.com ({error.message})"
        ) from None
    if url.path not in {"", "/"}:
        raise _InvalidError(
            "* or a list of origins such as https://app.example.com, without a path"
        )
    # A browser's Origin never names the default port.
    return url.identity.rstrip("/")


def _hosts(value: str) -> tuple[str, ...]:
    return tuple(_trusted_host(item) for item in _split(value))


def _trusted_host(item: str) -> str:
    # A leading dot admits every name below, as in Flask's setting of this name.
    dot = "." if item.startswith(".") else ""
    try:
        return dot + normalise_host(item.removeprefix("."), underscores=True)
    except AddressError as error:
        raise _InvalidError(f"a list of host names without ports ({error.message})") from None


def _bind_host(value: str) -> str:
    try:
        return normalise_host(value, underscores=True)
    except AddressError as error:
        raise _InvalidError(
            f"a host name or an IP address to listen at ({error.message})"
        ) from None
