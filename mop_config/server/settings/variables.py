"""Variable: the declaration of one environment variable, how it is read, and the converters.

A converter converts a text to a value, or raises ``ValueError``, whose message says which values
are allowed.
"""

import base64
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from ...errors import AddressError, SettingsError
from ...model.address import (
    EtcdAddress,
    identity,
    normalise_host,
    normalise_path,
    parse_url,
    without_userinfo,
)

MAX_SECONDS = 366 * 86400
#: A bearer token, RFC 6750.
TOKEN = re.compile(r"(?=.{1,512}$)[A-Za-z0-9._~+/-]+=*")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

T = TypeVar("T")
N = TypeVar("N", int, float)
PREFIX = "ENDPOINT_"


@contextmanager
def _allowed(values: str) -> Iterator[None]:
    """Put the allowed values in front of the reason of an ``AddressError``."""
    try:
        yield
    except AddressError as error:
        raise ValueError(f"{values} ({error.message})") from None


def path(value: str) -> str:
    """Convert a URL path; a missing slash at its start is added."""
    with _allowed("a URL path such as /api/v1, without '?' or '#'"):
        if "://" in value:
            raise AddressError("bad-url", "a whole URL")
        return normalise_path("/" + value if value and not value.startswith("/") else value)


def source(value: str) -> str:
    """Convert the path of a file, or the URL of a key in etcd."""
    if value.startswith("etcd://"):
        with _allowed("etcd://host:2379[,host:2379]/key"):
            return EtcdAddress.parse(value).text
    if "://" in value:
        raise ValueError("the path of a file, or etcd://host:2379[,host:2379]/key")
    return value


def tokens(value: str) -> tuple[str, ...]:
    """Convert bearer tokens, separated by commas."""
    tokens = tuple(token.strip() for token in value.split(","))
    if not all(map(TOKEN.fullmatch, tokens)):
        raise ValueError(
            "a list, separated by commas, of tokens: A-Z a-z 0-9 - . _ ~ + / and = at the end"
        )
    return tokens


def webhook(value: str) -> str:
    """Convert the http or https URL of a webhook, which may have a query."""
    address, mark, query = value.partition("?")
    with _allowed("an http or https URL"):
        if not re.fullmatch(r"[!-~]*", query) or "#" in query:
            raise AddressError("bad-url", "the query holds a character that no query may hold")
        return parse_url(address, ("http", "https"), underscores=True).text + mark + query


def webhook_secret(value: str) -> bytes:
    """Convert the base64 text of a webhook's signing key."""
    with suppress(ValueError):
        key = base64.b64decode(value.removeprefix("whsec_"), validate=True)
        if 24 <= len(key) <= 64:
            return key
    raise ValueError("24 to 64 bytes in base64, with whsec_ before them or without")


def duration(value: str) -> float:
    """Convert seconds, or a number with the unit s, m, h or d, to seconds."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", value)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 60 <= seconds <= MAX_SECONDS:
        raise ValueError(f"60 to {MAX_SECONDS} seconds, or a number with m, h or d, such as 7d")
    return float(seconds)


def flag(value: str) -> bool:
    """Convert 0 or 1, or ``false`` or ``true``, to a boolean."""
    return one_of("0", "1", "false", "true")(value) in {"1", "true"}


def number(low: N, high: N) -> Callable[[str], N]:
    """Return a converter of whole numbers, or for bounds of type ``float`` of decimal ones and 0.

    Args:
        low: The lowest value.
        high: The highest value.
    """
    kind = type(low)
    decimal = kind is float
    pattern = r"[0-9]{1,18}(\.[0-9]{1,9})?" if decimal else "[0-9]{1,18}"

    def convert(value: str) -> N:
        number = kind(value) if re.fullmatch(pattern, value) else -1
        if low <= number <= high or (decimal and number == 0):
            return number
        form = "0, or a number" if decimal else "a whole number"
        raise ValueError(f"{form} from {low:.15g} to {high:.15g}")

    return convert


def one_of(*allowed: str) -> Callable[[str], str]:
    """Return a converter that accepts one of the words, in upper or lower case."""

    def convert(value: str) -> str:
        if value.lower() in allowed:
            return value.lower()
        raise ValueError("one of " + ", ".join(allowed))

    return convert


def _split(value: str) -> list[str]:
    return [item for item in re.split(r"[\s,]+", value) if item]


def origins(value: str) -> tuple[str, ...]:
    """Convert ``*`` or a list of origins, separated by commas or white space."""
    items = _split(value)
    if items == ["*"]:
        return ("*",)
    with _allowed("* or a list of origins such as https://app.example.com"):
        urls = [parse_url(item, ("http", "https"), underscores=True) for item in items]
        if any(url.path not in {"", "/"} for url in urls):
            raise AddressError("bad-url", "an origin has no path")
    # A browser's Origin never names the default port.
    return tuple(identity(*url[1:]).rstrip("/") for url in urls)


def hosts(value: str) -> tuple[str, ...]:
    """Convert a list of host names, separated by commas or white space.

    A leading dot admits all subdomains, as in Flask's ``TRUSTED_HOSTS``.
    """
    parts = (re.fullmatch(r"([.]?)(.*)", item) for item in _split(value))
    with _allowed("a list of host names without ports"):
        return tuple(p[1] + normalise_host(p[2], underscores=True) for p in parts if p)


def bind_host(value: str) -> str:
    """Convert the host name or IP address to listen at."""
    with _allowed("a host name or an IP address to listen at"):
        return normalise_host(value, underscores=True)


@dataclass(frozen=True, slots=True)
class Variable:
    """The declaration of one environment variable.

    Attributes:
        default: The value while the variable is unset or empty.
        convert: Converts the text to the value; raises ``ValueError`` for a bad text.
        help: The meaning, in Markdown; the README's table shows it.
        name: The name in the environment; empty means the name of the field behind the ``prefix``
            of the class, which is ``ENDPOINT_`` unless the class has another one.
        secret: Whether the text must not appear in an error message.
        keep_empty: Whether an empty text is converted like any other text; else it means the
            default.
        lenient: Whether a bad text only causes a warning, and the default is used.
    """

    default: Any
    convert: Callable[[str], Any]
    help: str
    name: str = ""
    secret: bool = False
    keep_empty: bool = False
    lenient: bool = False


def setting(default: T, convert: Callable[[str], T], help: str, **options: Any) -> T:  # noqa: A002
    """Declare a variable as a field of a dataclass of settings; see ``Variable`` for arguments."""
    variable = Variable(default, convert, help, **options)
    field: T = dataclasses.field(
        default=default, repr=not variable.secret, metadata={"variable": variable}
    )
    return field


def declared(settings: type) -> Iterator[tuple[str, Variable]]:
    """Return each field of a dataclass that a variable sets, with the declaration."""
    prefix = getattr(settings, "prefix", PREFIX)
    for field in dataclasses.fields(settings):
        if "variable" in field.metadata:
            variable: Variable = field.metadata["variable"]
            name = variable.name or prefix + field.name.upper()
            yield field.name, dataclasses.replace(variable, name=name)


def read(settings: type, environ: Mapping[str, str], warnings: list[str]) -> dict[str, Any]:
    """Return the value of each field that a variable sets; see ``setting``.

    Args:
        settings: The dataclass of settings.
        environ: The environment.
        warnings: Takes a warning for each bad text that is ignored.

    Raises:
        SettingsError: If a converter refuses a text.
    """
    return {name: _value(variable, environ, warnings) for name, variable in declared(settings)}


def _value(variable: Variable, environ: Mapping[str, str], warnings: list[str]) -> Any:
    value = environ.get(variable.name, "").strip()
    if not value and not (variable.keep_empty and variable.name in environ):
        return variable.default
    try:
        return variable.convert(value)
    except ValueError as error:
        shown = "***" if variable.secret else without_userinfo(value)
        refused = SettingsError(variable.name, shown, str(error))
    if not variable.lenient:
        raise refused
    warnings.append(f"{refused}; it is ignored")
    return variable.default


def unknown(environ: Mapping[str, str], *settings: type) -> Iterator[str]:
    """Return a warning for each variable with our prefix that no dataclass declares."""
    known = sorted(variable.name for each in settings for _, variable in declared(each))
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            longer = [each for each in known if each.startswith(name)]
            near = get_close_matches(name, longer or known, 1, cutoff=0.0)[0]
            yield f"{name} is not a known variable: did you mean {near}?"
