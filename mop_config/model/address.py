"""Hosts, ports and URLs: their validation and their one canonical spelling.

The endpoint file, QR codes and remote lists are all validated here, by the same rules. Hosts
follow RFC 1123 and RFC 5890 (internationalised names become A-labels by UTS 46), IPv6 follows
RFC 5952, URLs follow RFC 3986.
"""

import contextlib
import ipaddress
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

import idna

from ..errors import AddressError

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
ETCD_PORT = 2379
MAX_HOST_LENGTH = 253
MAX_LABEL_LENGTH = 63
MAX_PORT = 65535
#: Limit of the characters of an invalid value that an error message shows.
MAX_SHOWN = 200

# The last label of a name starts with a letter, since every URL parser reads a name that ends in
# a number as an IPv4 address. The quantifiers are possessive, so no text causes backtracking.
_LABEL = r"[a-z0-9]++(?:-++[a-z0-9]++)*+"
_NAME = rf"(?:{_LABEL}\.)*+[a-z][a-z0-9]*+(?:-++[a-z0-9]++)*+"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_SEGMENTS = r"[A-Za-z0-9/:@!$&'()*+,;=~._-]*+"
_PATH = rf"(?:/{_SEGMENTS}(?:%[0-9A-Fa-f]{{2}}{_SEGMENTS})*+)?"

#: A line with one canonical host name (group 1) or IPv4 address (2), and optionally its port (3),
#: its priority (4) and a comment. The caller still checks that the name has at most
#: ``MAX_LABEL_LENGTH`` characters and no ``xn--``, and that the numbers are in range.
PLAIN_LINE = re.compile(
    rf"[ \t]*+(?:({_NAME})|({_IPV4}))(?::([1-9][0-9]{{0,4}}))?"
    rf"(?:[ \t]++priority=([0-9]{{1,5}}))?"
    r"(?:[ \t]++#.*+|[ \t]*+)"
)
_IPV4_HOST = re.compile(_IPV4)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_CIDR = re.compile(r"[0-9A-Fa-f.:\[\]]+/[0-9]{1,3}")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ASCII_LABEL = re.compile(_LABEL)
_NAME_HOST = re.compile(_NAME)
_CANONICAL_PATH = re.compile(_PATH)
#: Signs of a user name or password: the at sign, plain, full-width or percent-encoded.
USERINFO = re.compile(r"[@＠]|%40")
_NOT_IN_URLS = re.compile(r"[\s\x00-\x1f\\\"<>^`{|}\ud800-\udfff]")
# 80 and above: a smaller number is more often the last group of the address.
_LIKE_A_PORT = re.compile(r"8[0-9]|9[0-9]|[1-9][0-9]{2,4}")
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"


def secret_part(text: str) -> int:
    """Return the index at which user name and password end, or 0 without them."""
    return max((sign.end() for sign in USERINFO.finditer(text)), default=0)


def without_userinfo(text: str) -> str:
    """Return the text with asterisks in place of a user name and password, safe for messages."""
    secret = secret_part(text)
    return f"***@{text[secret:]}" if secret else text


@contextlib.contextmanager
def _naming(text: str) -> Iterator[None]:
    """Add a text, which is parsed in the block, to each ``AddressError`` that the block raises."""
    try:
        yield
    except AddressError as error:
        value = without_userinfo(text)
        value = value if len(value) <= MAX_SHOWN else value[: MAX_SHOWN - 1] + "…"
        raise AddressError(error.code, error.message, value) from None


class Url(NamedTuple):
    """A URL in its canonical spelling, and its parts.

    Attributes:
        text: The whole URL.
        scheme: ``http``, ``https``, ``ws`` or ``wss``.
        host: The host in its URL form, an IPv6 address in brackets.
        port: The port, or None if the URL has no port.
        path: The path, empty or with a leading ``/``.
    """

    text: str
    scheme: str
    host: str
    port: int | None
    path: str


def identity(scheme: str, host: str, port: int | None, path: str) -> str:
    """Return the canonical URL without a default port and with a path of at least ``/``."""
    if port is None or port == DEFAULT_PORTS[scheme]:
        return f"{scheme}://{host}{path or '/'}"
    return f"{scheme}://{host}:{port}{path or '/'}"


def is_loopback(host: str) -> bool:
    """Whether the host of a URL is ``localhost`` or a loopback address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def is_ip(host: str) -> bool:
    """Whether a canonical host is an IPv4 address or a bracketed IPv6 address."""
    return host.startswith("[") or _IPV4_HOST.fullmatch(host) is not None


def normalise_host(text: str, *, underscores: bool = False) -> str:
    """Return the canonical spelling of a host, in its URL form.

    Args:
        text: A host name, an IPv4 address, or an IPv6 address with or without brackets.
        underscores: Whether a name may have underscores, as the names of containers do. The
            DNS and ``Host`` headers allow underscores; certificates and endpoints do not.

    Returns:
        Lower-case ASCII; IPv6 in brackets and in the form of RFC 5952.

    Raises:
        AddressError: With code ``bad-host``, ``bad-ip``, ``cidr`` or ``userinfo``.
    """
    if len(text) <= MAX_LABEL_LENGTH and "xn--" not in text and _NAME_HOST.fullmatch(text):
        return text
    with _naming(text):
        _refuse_userinfo(text)
        refuse_network(text)
        if "/" in text:
            raise AddressError("bad-host", "a URL is not a host, and a host has no path")
        if text.startswith("["):
            if not text.endswith("]"):
                raise AddressError("bad-ip", "an IPv6 address with a '[' must end with ']'")
            return _normalise_ipv6(text[1:-1])
        if ":" in text:
            return _normalise_ipv6(text)
        return _normalise_name(text, underscores=underscores)


def _refuse_userinfo(text: str) -> None:
    if USERINFO.search(text):
        raise AddressError("userinfo", "a user name or password does not belong in an address")


def refuse_network(text: str) -> None:
    """Refuse a network in CIDR notation.

    Raises:
        AddressError: With code ``cidr``.
    """
    if _CIDR.fullmatch(text):
        raise AddressError("cidr", "a network (CIDR) is no endpoint: write one of its addresses")


def port_without_brackets(text: str) -> str | None:
    """Return the form with brackets of a bare IPv6 address that seems to end in a port.

    ``::1:8080`` is an address without a port, but its author probably meant ``[::1]:8080``.

    Returns:
        ``[::1]:8080``, or None if the last group does not look like the port of a web server,
        or if the rest is not an IPv6 address.
    """
    head, _, last = text.rpartition(":")
    if not _LIKE_A_PORT.fullmatch(last) or int(last) > MAX_PORT:
        return None
    try:
        ipaddress.IPv6Address(head)
    except ValueError:
        return None
    return f"[{head}]:{last}"


def _normalise_ipv6(text: str) -> str:
    if "%" in text:
        raise AddressError("bad-ip", "an IPv6 zone ('%…') has no meaning on another machine")
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        rule = "with a port it needs brackets, as in [::1]:8080, and a host name has no port here"
        raise AddressError("bad-ip", f"not an IPv6 address: {rule}") from None
    # CPython spells IPv4-mapped addresses differently from version to version.
    mapped = address.ipv4_mapped
    return f"[::ffff:{mapped}]" if mapped else f"[{address}]"


def _normalise_name(text: str, *, underscores: bool) -> str:
    host = text.lower().removesuffix(".")
    if not host.isascii() and len(host) <= MAX_HOST_LENGTH:
        if "：" in text:
            raise AddressError("bad-port", "the character before the port is '：': write ':'")
        try:
            host = idna.encode(text, uts46=True).decode("ascii").lower().removesuffix(".")
        except (idna.IDNAError, UnicodeError):
            # Our own message: idna's quote the text, which may hold unprintable characters.
            rule = "a character, or a mix of writing directions, that IDNA 2008 does not allow"
            raise AddressError("bad-host", f"the host name has {rule}") from None
    if not host:
        raise AddressError("bad-host", "the host is empty")
    if len(host) > MAX_HOST_LENGTH:
        raise AddressError("bad-host", f"the host is longer than {MAX_HOST_LENGTH} characters")
    labels = host.split(".")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        if _IPV4_HOST.fullmatch(host):
            return host
        numbers = "four numbers from 0 to 255, without leading zeros"
        raise AddressError("bad-ip", f"not an IPv4 address: it needs {numbers}")
    for label in labels:
        if reason := _why_not_a_label(label.replace("_", "0") if underscores else label):
            raise AddressError("bad-host", reason)
    return host


def _why_not_a_label(label: str) -> str:
    if not label:
        return "a label (the text between two dots) is empty"
    if len(label) > MAX_LABEL_LENGTH:
        return f"a label is longer than {MAX_LABEL_LENGTH} characters"
    if not _ASCII_LABEL.fullmatch(label):
        return "a label may hold letters, digits and inner hyphens, nothing else"
    if label.startswith("xn--"):
        try:
            idna.ulabel(label)
        except (idna.IDNAError, UnicodeError):
            return "a label that starts with 'xn--' is not valid punycode"
    return ""


def normalise_port(text: str) -> int:
    """Parse a port number.

    Raises:
        AddressError: With code ``bad-port``, if the text is not a number from 1 to 65535.
    """
    if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= MAX_PORT:
        return int(text)
    raise AddressError("bad-port", f"the port must be a number from 1 to {MAX_PORT}")


def split_port(text: str) -> tuple[str, int | None]:
    """Split ``host``, ``host:port``, an IPv6 address or ``[IPv6]:port`` into host and port.

    Returns:
        The host as it was written, and the port or None. A text with more than one ``:`` and
        without brackets is a bare IPv6 address.

    Raises:
        AddressError: With code ``bad-port``, ``bad-ip`` or ``cidr``.
    """
    with _naming(text):
        refuse_network(text)
        if text.startswith("["):
            host, bracket, rest = text.partition("]")
            if rest and not rest.startswith(":"):
                raise AddressError("bad-ip", "only ':' and a port may follow ']'")
            return host + bracket, normalise_port(rest[1:]) if rest else None
        if text.count(":") == 1:
            host, _, port = text.partition(":")
            return host, normalise_port(port)
        return text, None


def parse_url(
    text: str,
    schemes: tuple[str, ...] = ("http", "https", "ws", "wss"),
    *,
    underscores: bool = False,
) -> Url:
    """Parse the URL of an endpoint, and return its canonical spelling with its parts.

    Args:
        text: ``scheme://host[:port][/path]``, without user, query or fragment.
        schemes: The schemes that are allowed, in lower case.
        underscores: See ``normalise_host``.

    Raises:
        AddressError: With code ``bad-url``, ``bad-scheme``, ``userinfo``, ``bad-port``, or one
            of ``normalise_host``.
    """
    with _naming(text):
        if _NOT_IN_URLS.search(text):
            raise AddressError("bad-url", "the URL has a character that is not allowed in URLs")
        match = _URL.fullmatch(text)
        if not match:
            example = "https" if "https" in schemes else schemes[0]
            raise AddressError("bad-url", f"not a URL of the form {example}://host[:port][/path]")
        scheme, authority = match[1].lower(), match[2]
        _refuse_userinfo(authority)
        if scheme not in schemes:
            raise AddressError("bad-scheme", f"the scheme must be one of {', '.join(schemes)}")
        for part, text in (("query", match[4]), ("fragment", match[5])):
            if text is not None:
                raise AddressError("bad-url", f"the URL may have no {part}")
        host, port = _split_authority(authority, underscores=underscores)
        path = normalise_path(match[3])
        spelled_port = "" if port is None else f":{port}"
        return Url(f"{scheme}://{host}{spelled_port}{path}", scheme, host, port, path)


def _split_authority(text: str, *, underscores: bool) -> tuple[str, int | None]:
    """Split the authority of a URL into its canonical host and its port."""
    if text.count(":") > 1 and not text.startswith("["):
        raise AddressError("bad-ip", "an IPv6 address in a URL needs brackets")
    host, port = split_port(text)
    return normalise_host(host, underscores=underscores), port


class EtcdAddress(NamedTuple):
    """The address of a text in etcd: the cluster's members, and the key.

    Attributes:
        members: Host and port of each member, the host in its URL form.
        key: The key, without the slash that separates it from the members.
    """

    members: tuple[tuple[str, int], ...]
    key: str

    @property
    def text(self) -> str:
        """The canonical spelling."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.members)
        return f"etcd://{hosts}/{self.key}"

    @staticmethod
    def parse(text: str) -> "EtcdAddress":
        """Parse ``etcd://host[:port][,host[:port]]/key``; the default port is 2379.

        The key is used as it is written, without percent-decoding.

        Raises:
            AddressError: With code ``bad-url``, ``userinfo``, ``bad-port``, or one of
                ``normalise_host``.
        """
        with _naming(text):
            hosts, _, key = text.removeprefix("etcd://").partition("/")
            if not text.startswith("etcd://") or not key:
                raise AddressError("bad-url", "a host, a slash and a key are needed")
            if USERINFO.search(hosts):
                where = "ENDPOINT_ETCD_USER and ENDPOINT_ETCD_PASSWORD"
                raise AddressError("userinfo", f"user name and password are set by {where}")
            if _NOT_IN_URLS.search(key):
                raise AddressError("bad-url", "the key has a character that is not allowed in it")
            members = []
            for item in hosts.split(","):
                host, port = _split_authority(item, underscores=True)
                members.append((host, port or ETCD_PORT))
            return EtcdAddress(tuple(members), key)


def normalise_path(path: str) -> str:
    """Return the canonical spelling of a URL path, with non-ASCII characters percent-encoded.

    Raises:
        AddressError: With code ``bad-url``.
    """
    if _CANONICAL_PATH.fullmatch(path):
        return path
    with _naming(path):
        if _NOT_IN_URLS.search(path) or "?" in path or "#" in path:
            raise AddressError("bad-url", "the path has a character that is not allowed in paths")
        if _BARE_PERCENT.search(path):
            raise AddressError("bad-url", "a '%' in a URL needs two hexadecimal digits after it")
        return quote(path, safe=_PATH_SAFE)
