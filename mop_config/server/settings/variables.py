"""The environment variables of the server: one declaration each, and the reader of their values.

A declaration holds the name, the default, the converter and the meaning of a variable. The
settings take their defaults from here, and the README's table is checked against the declarations.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Generic, TypeVar

from ...errors import SettingsError
from ...model.address import MAX_PORT, without_userinfo
from . import converters as to

T = TypeVar("T")

PREFIX = "ENDPOINT_"


@dataclass(frozen=True, slots=True)
class Variable(Generic[T]):
    """The declaration of one environment variable.

    Attributes:
        name: The name in the environment.
        default: The value where the variable is unset or empty.
        convert: Makes the value from the text; raises ``InvalidError`` for a bad text.
        help: What the variable sets, in a few words.
        secret: Whether the text must not appear in an error message.
        keep_empty: Whether an empty text is a value of its own rather than the default.
    """

    name: str
    default: T
    convert: Callable[[str], T]
    help: str
    secret: bool = False
    keep_empty: bool = False


SOURCE = Variable(
    "ENDPOINT_CONFIG_FILE",
    "config/endpoints.txt",
    to.source,
    "the endpoint file, or etcd://host:2379[,host:2379]/key",
)
PROTOCOL = Variable(
    "ENDPOINT_PROTOCOL",
    "https",
    to.one_of("http", "https"),
    "scheme of generated URLs: http or https",
)
API_PATH = Variable(
    "ENDPOINT_API_PATH",
    "/api/v1",
    to.path,
    "path of generated API URLs; set but empty means none",
    keep_empty=True,
)
SOCKET_PATH = Variable(
    "ENDPOINT_SOCKET_PATH", "", to.path, "path of generated Socket.io URLs", keep_empty=True
)
DEFAULT_PORT: Variable[int | None] = Variable(
    "ENDPOINT_DEFAULT_PORT",
    None,
    to.number(1, MAX_PORT),
    "port of API URLs, and of Socket.io URLs while they have no path",
)
SOCKET_PORT: Variable[int | None] = Variable(
    "ENDPOINT_SOCKET_PORT", None, to.number(1, MAX_PORT), "port of Socket.io URLs"
)
STRICT = Variable("ENDPOINT_STRICT", False, to.flag, "1: any error refuses the whole file")
ALLOW_EMPTY = Variable(
    "ENDPOINT_ALLOW_EMPTY",
    False,
    to.flag,
    "1: a file without a usable entry may replace a list that has some",
)
MAX_BYTES = Variable(
    "ENDPOINT_MAX_BYTES", 1048576, to.number(1, 2**40), "limit of the file's size in bytes"
)
POLL_INTERVAL = Variable(
    "ENDPOINT_POLL_INTERVAL",
    5.0,
    to.seconds,
    "seconds between two looks at the content, beside watching; 0 is never",
)
STATE_DIR: Variable[str | None] = Variable(
    "ENDPOINT_STATE_DIR", None, to.text, "folder of the last good list and the workers' state"
)
MAX_AGE = Variable(
    "ENDPOINT_MAX_AGE",
    60,
    to.number(0, to.MAX_SECONDS),
    "seconds for which a client may keep an answer",
)
MAX_WAITERS: Variable[int | None] = Variable(
    "ENDPOINT_MAX_WAITERS", None, to.number(0, 1_000_000), "long polls parked in one worker"
)
TOKENS: Variable[tuple[str, ...]] = Variable(
    "ENDPOINT_TOKENS", (), to.tokens, "access tokens that may do everything", secret=True
)
TOKENS_FILE: Variable[str | None] = Variable(
    "ENDPOINT_TOKENS_FILE", None, to.file, "file of the digests of further access tokens"
)
PROBE_INTERVAL = Variable(
    "ENDPOINT_PROBE_INTERVAL",
    0.0,
    to.interval,
    "seconds between two checks of the served endpoints, 0.1 or more; 0 is never",
)
ALERT_WEBHOOK: Variable[str | None] = Variable(
    "ENDPOINT_ALERT_WEBHOOK",
    None,
    to.webhook,
    "URL that is notified of outages and of their end",
    secret=True,
)
ALERT_SECRET = Variable(
    "ENDPOINT_ALERT_SECRET",
    b"",
    to.webhook_secret,
    "key of the notifications' signature: whsec_ and base64",
    secret=True,
)
ETCD_USER: Variable[str | None] = Variable("ENDPOINT_ETCD_USER", None, to.text, "user of etcd")
ETCD_PASSWORD: Variable[str | None] = Variable(
    "ENDPOINT_ETCD_PASSWORD", None, to.text, "password of that user", secret=True
)
ETCD_CA: Variable[str | None] = Variable(
    "ENDPOINT_ETCD_CA", None, to.file, "PEM file of the authorities for etcd's certificate"
)
ETCD_CERT: Variable[str | None] = Variable(
    "ENDPOINT_ETCD_CERT", None, to.file, "PEM file of the certificate for etcd"
)
ETCD_KEY: Variable[str | None] = Variable(
    "ENDPOINT_ETCD_KEY", None, to.file, "PEM file of the key of that certificate"
)
SIGNING_KEY_FILE: Variable[str | None] = Variable(
    "ENDPOINT_SIGNING_KEY_FILE", None, to.file, "file of the key that lists are signed with"
)
SIGNING_TTL = Variable(
    "ENDPOINT_SIGNING_TTL",
    7 * 86400.0,
    to.duration,
    "validity of a signed list: seconds, or a number with m, h or d",
)
CORS_ORIGINS: Variable[tuple[str, ...]] = Variable(
    "ENDPOINT_CORS_ORIGINS",
    (),
    to.origins,
    "*, or a list of origins whose scripts may read the answers",
)
TRUSTED_HOSTS: Variable[tuple[str, ...]] = Variable(
    "TRUSTED_HOSTS", (), to.hosts, "host names that are answered; a leading dot adds subdomains"
)
SERVICE_NAME = Variable("SERVICE_NAME", "mop-api", to.text, "service in /health")
HOST = Variable("HOST", "127.0.0.1", to.bind_host, "address to listen at")
PORT = Variable("PORT", 8000, to.number(0, MAX_PORT), "port to listen at; 0 takes a free one")
WEB_CONCURRENCY = Variable("WEB_CONCURRENCY", 2, to.number(1, 1024), "worker processes")
THREADS = Variable("THREADS", 16, to.number(1, 4096), "threads in each gthread worker")
WORKER_CLASS = Variable(
    "WORKER_CLASS",
    "gthread",
    to.one_of("gthread", "sync"),
    "gthread or sync",
)


class EnvironmentReader:
    """Reads declared variables from an environment, and collects warnings.

    Args:
        environ: The environment.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.known: set[str] = set()
        self.warnings: list[str] = []

    def get(self, variable: Variable[T]) -> T:
        """Return the converted value, or the default where the variable is unset or empty.

        Raises:
            SettingsError: If the converter refuses the text.
        """
        self.known.add(variable.name)
        written = self.environ.get(variable.name)
        value = (written or "").strip()
        if written is None or (not value and not variable.keep_empty):
            return variable.default
        try:
            return variable.convert(value)
        except to.InvalidError as error:
            shown = "***" if variable.secret else without_userinfo(value)
            raise SettingsError(variable.name, shown, str(error)) from None

    def finish(self) -> tuple[str, ...]:
        """Return all warnings, with one for each unknown variable that has our prefix."""
        for name in sorted(self.environ):
            if not name.startswith(PREFIX) or name in self.known:
                continue
            near = get_close_matches(name, sorted(self.known), n=1, cutoff=0.0)
            self.warnings.append(f"{name} is not a known variable: did you mean {near[0]}?")
        return tuple(self.warnings)
