"""The endpoint file's text, read line by line into entries and problems. Pure.

One bad entry never costs the others: it is left out, with a problem that says where and
why. What the entries become (URLs, priorities, duplicates) is ``build``'s business.
"""

import re
from enum import StrEnum
from typing import NamedTuple

from ..address import (
    MAX_LABEL_LENGTH,
    MAX_PORT,
    PLAIN_LINE,
    USERINFO,
    Url,
    is_ip,
    normalise_host,
    parse_url,
    secret_part,
    split_port,
)
from ..errors import AddressError
from ..model import check_server_name
from .problems import Code, Problems

MAX_PRIORITY = 65535


class Section(StrEnum):
    """The lists that an endpoint file may hold, spelled as in the file."""

    DOMAINS = "DomainList"
    IPS = "IPList"
    API = "ApiList"
    SOCKET = "SocketList"


class Entry(NamedTuple):
    """One usable entry: a host, or in ``ApiList`` and ``SocketList`` maybe a whole URL.

    ``host`` is canonical and ready to stand in a URL; ``port`` and ``priority`` are None
    where the file names none; ``text`` is the entry's address as it was written.
    """

    host: str
    port: int | None
    url: Url | None
    priority: int | None
    server_name: str | None
    line: int
    column: int
    text: str


class EndpointFile(NamedTuple):
    """What a text holds: the entries of each section in file order, and what is wrong."""

    entries: dict[Section, list[Entry]]
    problems: Problems


_LINE_END = re.compile(r"\r\n|\r|\n")
_COMMENT = re.compile(r"(?:^|(?<=\s))#\S*")
_CHUNK = re.compile(r"[^,，]+")
_COLON = re.compile(r"[:：]")
_TOKEN = re.compile(r"\S+")
_SECTIONS = {section.lower(): section for section in Section}
_KNOWN_HEADER = re.compile(rf"\s*({'|'.join(Section)})\s*[:：]", re.IGNORECASE)
# A word or two and a colon that no address can be: what follows the colon is no port and
# no IPv6 group, or the name says that it is a list.
_OTHER_HEADER = re.compile(r"\s*([^\W\d_][\w \t-]*)[:：](?=\s|$)")
_OTHER_LIST = re.compile(r"\s*([^\W\d_][\w \t-]*list)[ \t]*[:：]", re.IGNORECASE)
# Which groups of PLAIN_LINE need no warning in a section: 1 is a name, 2 an IPv4 address.
_PLAIN_GROUPS: dict[Section | None, tuple[int, ...]] = {
    Section.DOMAINS: (1,),
    Section.IPS: (2,),
    Section.API: (1, 2),
    Section.SOCKET: (1, 2),
}
_SCHEMES = {Section.API: ("http", "https"), Section.SOCKET: ("http", "https", "ws", "wss")}


def parse(text: str) -> EndpointFile:
    r"""Read the text of an endpoint file, without its byte order mark.

    Lines end at ``\n``, ``\r\n`` or ``\r`` only. Every problem of an entry stands in the
    result; nothing that a text can hold raises.
    """
    parser = _Parser()
    for number, line in enumerate(_LINE_END.split(text), 1):
        parser.line(number, line)
    return EndpointFile(parser.entries, parser.problems)


class _Parser:
    """Carries the current section from line to line."""

    def __init__(self) -> None:
        self.entries: dict[Section, list[Entry]] = {section: [] for section in Section}
        self.problems = Problems()
        self.enter(None)

    def enter(self, section: Section | None, *, skipping: bool = False) -> None:
        """Go on in another section; ``skipping``: in one that nobody knows."""
        self.section = section
        self.skipping = skipping
        self.plain_groups = _PLAIN_GROUPS.get(section, ())
        self.current = self.entries[section] if section else []

    def line(self, number: int, line: str) -> None:
        if (plain := PLAIN_LINE.fullmatch(line)) and self._plain(number, plain):
            return
        bare = line.lstrip()
        if not bare or bare[0] == "#":
            return
        whole = line
        if "#" in line and (comment := _COMMENT.search(line)):
            # A password may hold what looks like the start of a comment.
            whole, line = line[: comment.end()], line[: comment.start()]
        secret_end = secret_part(whole)
        start = self._header(number, line, secret_end) if _COLON.search(line) else 0
        if not self.skipping:
            self._entries(number, line, start, secret_end)

    def _plain(self, number: int, match: re.Match[str]) -> bool:
        """Take in the common line, which needs no second look: say whether it was one."""
        name, address, port, priority, server_name = match.groups()
        group = 1 if name else 2
        host = name or address
        if group not in self.plain_groups or _is_odd(host) or host in _SECTIONS:
            return False
        column = match.start(group) + 1
        if match.lastindex == group:
            self.current.append(Entry(host, None, None, None, None, number, column, host))
            return True
        number_of_port = None if port is None else int(port)
        rank = None if priority is None else int(priority)
        if (
            (number_of_port and (number_of_port > MAX_PORT or host.endswith("list")))
            or (rank and rank > MAX_PRIORITY)
            or (server_name and (name or _is_odd(server_name)))
        ):
            return False
        text = match.string[match.start(group) : match.end(match.lastindex or 0)]
        entry = Entry(host, number_of_port, None, rank, server_name, number, column, text)
        self.current.append(entry)
        return True

    def _header(self, number: int, line: str, secret_end: int) -> int:
        """Enter the section that the line opens, if any; say where its entries begin."""
        if known := _KNOWN_HEADER.match(line):
            self.enter(_SECTIONS[known[1].lower()])
            return known.end()
        other = _OTHER_LIST.match(line) or _OTHER_HEADER.match(line)
        if not other:
            return 0
        self.enter(None, skipping=True)
        names = ", ".join(Section)
        message = f"an unknown section: its entries are left out (known are {names})"
        name = "***" if secret_end else other[1].rstrip()
        self.problems.add(Code.UNKNOWN_SECTION, number, other.start(1) + 1, message, name)
        return other.end()

    def _entries(self, number: int, line: str, start: int, secret_end: int) -> None:
        for chunk in _CHUNK.finditer(line, start):
            tokens = [(t.start(), t[0]) for t in _TOKEN.finditer(line, *chunk.span())]
            if not tokens:
                continue
            begin, end = tokens[0][0], tokens[-1][0] + len(tokens[-1][1])
            shown = line[begin:end]
            if begin < secret_end:
                shown = "***@" + line[secret_end:end] if secret_end <= end else "***"
            self._entry(number, begin + 1, [t for _, t in tokens], shown)

    def _entry(self, line: int, column: int, tokens: list[str], shown: str) -> None:
        address, *attributes = tokens
        if self.section is None:
            code, message = Code.NO_SECTION, "an entry before any section: it is left out"
            if address.lower() in _SECTIONS:
                code, message = Code.MISSING_COLON, f"write {address}: with a colon"
            self.problems.add(code, line, column, message, shown)
            return
        try:
            host, port, url = self._address(self.section, address)
            priority, server_name = _attributes(attributes)
            if server_name is not None and not is_ip(host):
                message = "server_name: it may stand at an IP address only"
                raise AddressError(Code.BAD_SERVER_NAME, message)
        except AddressError as error:
            self.problems.add(Code(error.code), line, column, str(error), shown)
            return
        entry = Entry(host, port, url, priority, server_name, line, column, shown)
        self._keep(self.section, entry)

    def _address(self, section: Section, text: str) -> tuple[str, int | None, Url | None]:
        if text.lower() in _SECTIONS:
            raise AddressError(Code.MISSING_COLON, f"a section's name needs a colon: {text}:")
        schemes = _SCHEMES.get(section)
        if schemes is not None and "://" in text:
            url = parse_url(text, schemes)
            return url.host, url.port, url
        if USERINFO.search(text):
            normalise_host(text)
        if "://" in text:
            where = f"a URL may stand in {Section.API} and {Section.SOCKET}, here only a host"
            raise AddressError(Code.BAD_HOST, where)
        written, port = split_port(text)
        return normalise_host(written), port, None

    def _keep(self, section: Section, entry: Entry) -> None:
        self.entries[section].append(entry)
        if section is Section.DOMAINS:
            if is_ip(entry.host):
                message = f"an IP address under {Section.DOMAINS}: it belongs under {Section.IPS}"
                self._warn(Code.IP_IN_DOMAIN_LIST, entry, message)
        elif section is Section.IPS and not is_ip(entry.host):
            message = f"a host name under {Section.IPS}: it belongs under {Section.DOMAINS}"
            self._warn(Code.NAME_IN_IP_LIST, entry, message)

    def _warn(self, code: Code, entry: Entry, message: str) -> None:
        self.problems.add(code, entry.line, entry.column, message, entry.text)


def _is_odd(host: str) -> bool:
    """Whether a name of the form in PLAIN_LINE has to be looked at label by label."""
    return len(host) > MAX_LABEL_LENGTH or "xn--" in host


def _attributes(tokens: list[str]) -> tuple[int | None, str | None]:
    """Read what follows an address: ``priority=N`` and ``server_name=HOST``, each once."""
    values: dict[str, str] = {}
    for token in tokens:
        key, equals, value = token.partition("=")
        if key.lower() not in {"priority", "server_name"} or not equals:
            raise AddressError(
                Code.UNKNOWN_ATTRIBUTE,
                "after an address only priority=N and server_name=HOST may stand"
                " (a comma separates two entries)",
            )
        if key.lower() in values:
            raise AddressError(Code.UNKNOWN_ATTRIBUTE, f"{key.lower()} is given twice")
        values[key.lower()] = value
    priority = values.get("priority")
    name = values.get("server_name")
    return (
        None if priority is None else _priority(priority),
        None if name is None else _server_name(name),
    )


def _priority(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= MAX_PRIORITY:
        return int(text)
    message = f"the priority must be a number from 0 to {MAX_PRIORITY}"
    raise AddressError(Code.BAD_PRIORITY, message)


def _server_name(text: str) -> str:
    if text.count(":") == 1:
        raise AddressError(Code.BAD_SERVER_NAME, "server_name: a host name has no port")
    try:
        name = normalise_host(text)
        check_server_name(name)
    except AddressError as error:
        raise AddressError(Code.BAD_SERVER_NAME, f"server_name: {error}") from None
    return name
