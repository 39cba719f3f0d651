"""The endpoint file's text, read line by line into entries and problems. Pure.

One bad entry never costs the others: it is left out, with a problem that says where and
why. What the entries become (URLs, priorities, duplicates) is ``build``'s business.
"""

import re
import unicodedata
from difflib import get_close_matches
from enum import StrEnum
from typing import NamedTuple

from ...errors import AddressError
from ...model.address import (
    MAX_LABEL_LENGTH,
    MAX_PORT,
    PLAIN_LINE,
    USERINFO,
    Url,
    is_ip,
    normalise_host,
    parse_url,
    port_without_brackets,
    refuse_network,
    secret_part,
    split_port,
)
from ...model.endpoint import Attributes, canonical_server_name
from .problems import Code, Problems

MAX_PRIORITY = 65535
#: Characters of a word in which a section's name is looked for: no address is longer.
MAX_WORD = 2048
# Shared by all entries without attributes: a dictionary for each of 50,000 entries costs time.
_NO_ATTRIBUTES: Attributes = {}
#: What may stand behind an address, and its form.
_FORMS = {"priority": "priority=N", "server_name": "server_name=HOST"}


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
    attributes: Attributes
    line: int
    column: int
    text: str


class EndpointFile(NamedTuple):
    """What a text holds: the entries of each section in file order, and what is wrong."""

    entries: dict[Section, list[Entry]]
    problems: Problems


# Unicode's default-ignorable code points: those that no font draws (DerivedCoreProperties.txt).
_INVISIBLE = (
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_HIDDEN = re.compile(_INVISIBLE)
_EDGES = re.compile(rf"(?:^|(?<=[\s,，])){_INVISIBLE}+|{_INVISIBLE}+(?=[\s,，]|$)")
_LINE_END = re.compile(r"\r\n|\r|\n")
_COMMENT = re.compile(r"(?:^|(?<=\s))#\S*")
_CHUNK = re.compile(r"[^,，]+")
_COLON = re.compile(r"[:：]")
_TOKEN = re.compile(r"\S+")
_SECTIONS = {section.lower(): section for section in Section}
_KNOWN_HEADER = re.compile(rf"\s*({'|'.join(Section)})(?:\s|{_INVISIBLE})*[:：]", re.IGNORECASE)
# A section's name that no further label of a host name follows; and whether a colon does that
# cannot stand before a port.
_NAMED = re.compile(
    rf"(?<![^\W_])({'|'.join(Section)})(?![^\W_]|[.-]+[^\W_])(\s*[:：=](?![0-9]))?", re.IGNORECASE
)
_WORD = re.compile(r"[^\s,，]+")
_BARE_NAME = re.compile(rf"\s*({'|'.join(Section)})(?=[\s,，]|$)", re.IGNORECASE)
# What may stand before such a name in an entry: a scheme and a path, or a label and its dot.
_URL_BEFORE = re.compile(r"[^\W_].*[/@]|server_name=", re.IGNORECASE)
_LABEL_BEFORE = re.compile(r"(?!\W*[0-9]+[.]$).*[^\W_][.-]+")
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
        written = line
        if not line.isascii():
            line = _blank(line)
            if known := _KNOWN_HEADER.match(line):
                line = _HIDDEN.sub(" ", known[0]) + _blank(line[known.end() :])
        bare = line.lstrip()
        if not bare or bare[0] == "#":
            return
        whole = line
        if "#" in line and (comment := _COMMENT.search(line)):
            # A password may hold what looks like the start of a comment.
            whole, line = line[: comment.end()], line[: comment.start()]
        secret_end = secret_part(whole)
        start = self._header(number, line, secret_end) if _COLON.search(line) else 0
        if start and self.skipping:
            return
        if name := _misplaced_name(line[start:]):
            self._refuse_header(number, *_words(line, written), name, secret_end)
        elif not self.skipping:
            if start:
                end = start if line[start:].strip() else len(line)
                column, shown = _words(line[:start], written)
                self._warn_hidden(number, column, shown, written[:end], line[:end])
            self._entries(number, line, start, secret_end, written)

    def _plain(self, number: int, match: re.Match[str]) -> bool:
        """Take in the common line, which needs no second look: say whether it was one."""
        name, address, port, priority = match.groups()
        group = 1 if name else 2
        host = name or address
        if group not in self.plain_groups or _is_odd(host) or host in _SECTIONS:
            return False
        column = match.start(group) + 1
        if match.lastindex == group:
            self.current.append(Entry(host, None, None, None, _NO_ATTRIBUTES, number, column, host))
            return True
        number_of_port = None if port is None else int(port)
        rank = None if priority is None else int(priority)
        if (number_of_port and (number_of_port > MAX_PORT or host.endswith("list"))) or (
            rank and rank > MAX_PRIORITY
        ):
            return False
        text = match.string[match.start(group) : match.end(match.lastindex or 0)]
        entry = Entry(host, number_of_port, None, rank, _NO_ATTRIBUTES, number, column, text)
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

    def _refuse_header(
        self, number: int, column: int, shown: str, name: str, secret_end: int
    ) -> None:
        """Leave out a line that holds a section's name in another form, and what is below it."""
        known = _SECTIONS[name.lower()]
        if _BARE_NAME.match(shown):
            code, message = Code.MISSING_COLON, f"write {known}: with a colon"
        else:
            code = Code.UNKNOWN_SECTION
            message = (
                f"a section's name stands first on its line and before a colon: write {known}:"
            )
        if self.section is not None or code is Code.UNKNOWN_SECTION:
            message += "; this line, and the entries below it, are left out"
            self.enter(None, skipping=True)
        self.problems.add(code, number, column, message, "***" if secret_end else shown)

    def _warn_hidden(self, line: int, column: int, shown: str, written: str, read: str) -> None:
        """Name the invisible characters that were passed over in a part of a line."""
        if written == read:
            return
        found = dict.fromkeys(w for w, r in zip(written, read, strict=True) if w != r)
        names = ", ".join(f"U+{ord(c):04X} {unicodedata.name(c, '')}".rstrip() for c in found)
        message = f"invisible characters beside it are passed over: {names}"
        self.problems.add(Code.INVISIBLE, line, column, message, shown)

    def _entries(self, number: int, line: str, start: int, secret_end: int, written: str) -> None:
        for chunk in _CHUNK.finditer(line, start):
            tokens = [(t.start(), t[0]) for t in _TOKEN.finditer(line, *chunk.span())]
            if not tokens:
                continue
            begin, end = tokens[0][0], tokens[-1][0] + len(tokens[-1][1])
            shown = written[begin:end]
            if begin < secret_end:
                shown = "***@" + line[secret_end:end] if secret_end <= end else "***"
            part = slice(*chunk.span())
            self._warn_hidden(number, begin + 1, shown, written[part], line[part])
            self._entry(number, tokens, shown)

    def _entry(self, line: int, tokens: list[tuple[int, str]], shown: str) -> None:
        (begin, address), *words = tokens
        if self.section is None:
            message = "an entry before any section: it is left out"
            self.problems.add(Code.NO_SECTION, line, begin + 1, message, shown)
            return
        word = 0
        priority: int | None = None
        attributes: Attributes = {}
        seen: set[str] = set()
        try:
            host, port, url = self._address(self.section, address)
            for place, token in words:
                word = place + 1
                key, value = _attribute(token)
                if key in seen:
                    raise AddressError(Code.UNKNOWN_ATTRIBUTE, f"{key} is given twice")
                seen.add(key)
                if key == "priority":
                    priority = _priority(value)
                else:
                    attributes["server_name"] = _server_name(value, host)
        except AddressError as error:
            self.problems.add(Code(error.code), line, begin + 1, error.message, shown, word)
            return
        entry = Entry(host, port, url, priority, attributes, line, begin + 1, shown)
        self._keep(self.section, entry)
        if is_ip(host) and (meant := port_without_brackets(address)):
            message = f"an IPv6 address without a port; {meant} would be one with a port"
            self._warn(Code.IPV6_WITHOUT_PORT, entry, message)

    def _address(self, section: Section, text: str) -> tuple[str, int | None, Url | None]:
        schemes = _SCHEMES.get(section)
        if schemes is not None and "://" in text:
            url = parse_url(text, schemes)
            return url.host, url.port, url
        if USERINFO.search(text):
            normalise_host(text)
        if "://" in text:
            where = f"a URL may stand in {Section.API} and {Section.SOCKET}, here only a host"
            raise AddressError(Code.BAD_HOST, where)
        refuse_network(text)
        if any(sign in text for sign in "/?#"):
            raise AddressError(Code.BAD_HOST, _no_path(schemes))
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


def _words(line: str, written: str) -> tuple[int, str]:
    """Give the column, and the text as it was written, of what a line holds but for its edges."""
    start = len(line) - len(line.lstrip())
    return start + 1, written[start : len(line.rstrip())]


def _blank(text: str) -> str:
    """Put spaces in the place of invisible characters at the edges of words: columns stay."""
    return _EDGES.sub(lambda found: " " * len(found[0]), text)


def _misplaced_name(text: str) -> str | None:
    """Find a section's name that is neither a header in its proper form nor part of an address."""
    if not text.isascii():
        # Full-width letters, and invisible characters within the name.
        text = unicodedata.normalize("NFKC", _HIDDEN.sub("", text))
    for token in _WORD.finditer(text):
        for found in _NAMED.finditer(token[0][:MAX_WORD]):
            before = found.string[: found.start()]
            if not (
                _URL_BEFORE.match(before) or (_LABEL_BEFORE.fullmatch(before) and not found[2])
            ):
                return found[1]
    return None


def _no_path(schemes: tuple[str, ...] | None) -> str:
    if schemes is None:
        where = f"a whole URL may stand in {Section.API} and {Section.SOCKET}"
    else:
        where = "a URL begins with its scheme, such as https://"
    return f"what follows the host looks like a path, and a host or host:port has none: {where}"


def _attribute(token: str) -> tuple[str, str]:
    """Take one word behind an address apart: ``priority=N`` or ``server_name=HOST``."""
    key, equals, value = token.partition("=")
    key = key.lower()
    if equals and key in _FORMS:
        return key, value
    near = get_close_matches(key, _FORMS, n=1)
    hint = f"did you mean {_FORMS[near[0]]}?" if near else "a comma separates two entries"
    raise AddressError(
        Code.UNKNOWN_ATTRIBUTE,
        f"after an address only {' and '.join(_FORMS.values())} may stand ({hint})",
    )


def _priority(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= MAX_PRIORITY:
        return int(text)
    message = f"the priority must be a number from 0 to {MAX_PRIORITY}"
    raise AddressError(Code.BAD_PRIORITY, message)


def _server_name(text: str, host: str) -> str:
    if not is_ip(host):
        message = "server_name: it may stand at an IP address only"
        raise AddressError(Code.BAD_SERVER_NAME, message)
    if text.count(":") == 1:
        raise AddressError(Code.BAD_SERVER_NAME, "server_name: a host name has no port")
    try:
        return canonical_server_name(text)
    except AddressError as error:
        raise AddressError(Code.BAD_SERVER_NAME, f"server_name: {error.message}") from None
