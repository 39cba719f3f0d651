"""Parse the text of an endpoint file into entries and problems, line by line. Pure.

A bad entry does not affect the others: it is left out, and a problem states the place and the
reason. ``render`` turns the entries into endpoints.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

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
from .attributes import ALWAYS, FOREVER, MAX_PRIORITY, Window, add_attribute
from .problems import MAX_KEPT, Code, Problem, Severity

#: Errors that are kept in any case, even after a hundred warnings.
MIN_ERRORS = 10
#: Characters of the offending text that are kept.
MAX_TEXT = 200
#: Characters of a word that are searched for the name of a section; no address is longer.
MAX_WORD = 2048
# Shared by all entries without attributes: a dictionary for each of 50,000 entries costs time.
_NO_ATTRIBUTES: dict[str, str] = {}


class Section(StrEnum):
    """The sections of an endpoint file, spelled as in the file."""

    DOMAINS = "DomainList"
    IPS = "IPList"
    API = "ApiList"
    SOCKET = "SocketList"


class Entry(NamedTuple):
    """One valid entry.

    Attributes:
        host: The host in canonical spelling, as it stands in a URL.
        port: The port of the entry, or None.
        url: The URL, if the entry of ``ApiList`` or ``SocketList`` is a URL, else None.
        priority: The value of ``priority=``, or None.
        attributes: The other attributes.
        line: Line of the entry, counted from 1.
        column: Column of the entry in code points, counted from 1.
        text: The entry as it was written.
        window: The time in which the entry is served.
    """

    host: str
    port: int | None
    url: Url | None
    priority: int | None
    attributes: dict[str, str]
    line: int
    column: int
    text: str
    window: Window


class Problems:
    """The problems of a file: exact counts, and the first 100 problems in file order.

    A file of half a million bad entries must not cost half a million objects. The first ten errors
    are always among the 100, because an error after a hundred warnings must be visible too.
    """

    def __init__(self) -> None:
        self.counts: Counter[Severity] = Counter()
        self.found: list[Problem] = []

    @property
    def kept(self) -> list[Problem]:
        """The problems that are kept, in file order."""
        found = sorted(self.found)
        errors = [problem for problem in found if problem.severity is Severity.ERROR]
        first = set(errors[:MIN_ERRORS])
        others = [problem for problem in found if problem not in first]
        return sorted([*first, *others[: MAX_KEPT - len(first)]])

    def add(
        self, code: Code, line: int, column: int, message: str, text: str = "", word: int = 0
    ) -> None:
        """Add a problem; ``text`` is shortened to 200 characters."""
        self.counts[code.severity] += 1
        if len(text) > MAX_TEXT:
            text = text[: MAX_TEXT - 1] + "…"
        self.found.append(Problem(line, column, code.severity, code, message, text, word))
        if len(self.found) > 10 * MAX_KEPT:
            self.found = self.kept


# Unicode's default-ignorable code points, which no font draws (DerivedCoreProperties.txt).
_INVISIBLE = (
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_HIDDEN = re.compile(_INVISIBLE)
_EDGES = re.compile(rf"(?:^|(?<=[\s,，])){_INVISIBLE}+|{_INVISIBLE}+(?=[\s,，]|$)")
_COMMENT = re.compile(r"(?:^|(?<=\s))#\S*")
_CHUNK = re.compile(r"[^,，]+")
_WORD = re.compile(r"[^\s,，]+")
_SECTIONS = {section.lower(): section for section in Section}
_KNOWN_HEADER = re.compile(rf"\s*({'|'.join(Section)})(?:\s|{_INVISIBLE})*[:：]", re.IGNORECASE)
# The name of a section (group 1) that is not the start of a host name, and the colon after it (2)
# if that cannot be the colon before a port.
_NAMED = re.compile(
    rf"(?<![^\W_])({'|'.join(Section)})(?![^\W_]|[.-]+[^\W_])(\s*[:：=](?![0-9]))?", re.IGNORECASE
)
_BARE_NAME = re.compile(rf"\s*({'|'.join(Section)})(?=[\s,，]|$)", re.IGNORECASE)
# What may precede such a name inside an address: a scheme and a path, or a label and its dot.
_URL_BEFORE = re.compile(r"[^\W_].*[/@]|server_name=", re.IGNORECASE)
_LABEL_BEFORE = re.compile(r"(?!\W*[0-9]+[.]$).*[^\W_][.-]+")
# A header of an unknown section: words and a colon that is not followed by a port or an IPv6
# group, or words that end in "list" and a colon.
_OTHER_HEADER = re.compile(r"\s*([^\W\d_][\w \t-]*)[:：](?=\s|$)")
_OTHER_LIST = re.compile(r"\s*([^\W\d_][\w \t-]*list)[ \t]*[:：]", re.IGNORECASE)
# The groups of PLAIN_LINE that need no warning in a section: 1 is a name, 2 an IPv4 address.
_PLAIN_GROUPS = {None: (), Section.DOMAINS: (1,), Section.IPS: (2,)}
_SCHEMES = {Section.API: ("http", "https"), Section.SOCKET: ("http", "https", "ws", "wss")}


def parse(text: str) -> "EndpointFile":
    r"""Parse the text of an endpoint file, without its byte order mark.

    Lines end at ``\n``, ``\r\n`` or ``\r`` only. No text makes the parser raise: each problem
    is part of the result.
    """
    file = EndpointFile()
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if not ((plain := PLAIN_LINE.fullmatch(line)) and file.add_plain(number, plain)):
            file.add_line(number, line)
    return file


class EndpointFile:
    """A file that is parsed line after line.

    Attributes:
        entries: The entries of each section in file order.
        problems: The problems.
        section: The section of the next line; None before the first and in an unknown one.
    """

    def __init__(self) -> None:
        self.entries: dict[Section, list[Entry]] = {section: [] for section in Section}
        self.problems = Problems()
        self._open_section(None)

    def _open_section(self, section: Section | None, *, skipping: bool = False) -> None:
        """Continue in another section; ``skipping`` leaves out the entries of an unknown one."""
        self.section = section
        self.skipping = skipping
        self.plain_groups = _PLAIN_GROUPS.get(section, (1, 2))
        self.current = self.entries[section] if section else []

    def add_line(self, number: int, line: str) -> None:
        """Parse a line of any form."""
        written = line
        if not line.isascii():
            line = _blank(line)
            if known := _KNOWN_HEADER.match(line):
                line = _HIDDEN.sub(" ", known[0]) + _blank(line[known.end() :])
        whole = line
        if "#" in line and (comment := _COMMENT.search(line)):
            # A password may contain what looks like the start of a comment.
            whole, line = line[: comment.end()], line[: comment.start()]
        secret_end = secret_part(whole) if USERINFO.search(whole) else 0
        start = self._header(number, line, secret_end)
        if start and self.skipping:
            return
        if name := _misplaced_name(line[start:]):
            self._refuse(number, *_words(line, written), name, secret_end)
        elif not self.skipping:
            if start:
                end = start if line[start:].strip() else len(line)
                column, shown = _words(line[:start], written)
                self._warn_hidden(number, column, shown, written[:end], line[:end])
            self._entries(number, line, start, secret_end, written)

    def add_plain(self, number: int, match: re.Match[str]) -> bool:
        """Add the entry of a line in the most common form; return False if it needs a check."""
        group = 1 if match[1] else 2
        host = match[group]
        if group not in self.plain_groups or host in _SECTIONS:
            return False
        if len(host) > MAX_LABEL_LENGTH or "xn--" in host:
            return False
        start = match.start(group)
        port = priority = None
        text = host
        if match.lastindex != group:
            port, priority = (None if part is None else int(part) for part in match.group(3, 4))
            if port is not None and (port > MAX_PORT or host.endswith("list")):
                return False
            if priority is not None and priority > MAX_PRIORITY:
                return False
            text = match.string[start : match.end(match.lastindex or 0)]
        # Entry's own constructor would be a third of this method's time.
        fields = (host, port, None, priority, _NO_ATTRIBUTES, number, start + 1, text, ALWAYS)
        self.current.append(tuple.__new__(Entry, fields))
        return True

    def _header(self, number: int, line: str, secret_end: int) -> int:
        """Open the section that the line begins, if any; return the index of the line's entries."""
        if known := _KNOWN_HEADER.match(line):
            self._open_section(_SECTIONS[known[1].lower()])
            return known.end()
        other = _OTHER_LIST.match(line) or _OTHER_HEADER.match(line)
        if not other:
            return 0
        self._open_section(None, skipping=True)
        names = ", ".join(Section)
        message = f"an unknown section: its entries are left out (the sections are {names})"
        name = "***" if secret_end else other[1].rstrip()
        self.problems.add(Code.UNKNOWN_SECTION, number, other.start(1) + 1, message, name)
        return other.end()

    def _refuse(self, number: int, column: int, shown: str, name: str, secret_end: int) -> None:
        """Leave out a line with a malformed section header, and the entries below it."""
        known = _SECTIONS[name.lower()]
        code = Code.MISSING_COLON if _BARE_NAME.match(shown) else Code.UNKNOWN_SECTION
        message = f"a section starts with its name and a colon on the line: write {known}:"
        if self.section is not None or code is Code.UNKNOWN_SECTION:
            message += "; this line, and the entries below it, are left out"
            self._open_section(None, skipping=True)
        self.problems.add(code, number, column, message, "***" if secret_end else shown)

    def _warn_hidden(self, line: int, column: int, shown: str, written: str, read: str) -> None:
        """Warn about the invisible characters that were ignored in a part of a line."""
        if written == read:
            return
        found = dict.fromkeys(w for w, r in zip(written, read, strict=True) if w != r)
        names = ", ".join(f"U+{ord(c):04X} {unicodedata.name(c, '')}".rstrip() for c in found)
        message = f"invisible characters next to this text are ignored: {names}"
        self.problems.add(Code.INVISIBLE, line, column, message, shown)

    def _entries(self, number: int, line: str, start: int, secret_end: int, written: str) -> None:
        is_plain = written.startswith(line) and not secret_end
        for chunk in _CHUNK.finditer(line, start):
            plain = PLAIN_LINE.fullmatch(line, *chunk.span()) if is_plain else None
            if plain and self.add_plain(number, plain):
                continue
            tokens = [*_WORD.finditer(line, *chunk.span())]
            if not tokens:
                continue
            begin, end = tokens[0].start(), tokens[-1].end()
            shown = written[begin:end]
            if begin < secret_end:
                shown = "***@" + line[secret_end:end] if secret_end <= end else "***"
            part = slice(*chunk.span())
            self._warn_hidden(number, begin + 1, shown, written[part], line[part])
            self._entry(number, tokens, shown)

    def _entry(self, line: int, tokens: list[re.Match[str]], shown: str) -> None:
        column = tokens[0].start() + 1
        address = tokens[0][0]
        word = 0
        values: dict[str, Any] = {}
        try:
            if self.section is None:
                raise AddressError(Code.NO_SECTION, "an entry before any section: it is left out")
            host, port, url = self._address(self.section, address)
            for token in tokens[1:]:
                word = token.start() + 1
                add_attribute(values, token[0], host)
            window = Window(values.pop("from", -FOREVER), values.pop("until", FOREVER))
            if window.end <= window.start:
                raise AddressError(Code.BAD_WINDOW, "until must be later than from")
        except AddressError as error:
            self.problems.add(Code(error.code), line, column, error.message, shown, word)
            return
        priority = values.pop("priority", None)
        entry = Entry(host, port, url, priority, values, line, column, shown, window)
        self.current.append(entry)
        for code, message in _oddities(self.section, host, address):
            self.problems.add(code, line, column, message, shown)

    def _address(self, section: Section, text: str) -> tuple[str, int | None, Url | None]:
        schemes = _SCHEMES.get(section)
        if schemes is not None and "://" in text:
            url = parse_url(text, schemes)
            return url.host, url.port, url
        if USERINFO.search(text):
            normalise_host(text)
        refuse_network(text)
        if any(sign in text for sign in "/?#"):
            message = "only a URL may have a path, and begins with its scheme, such as https://"
            if schemes is None:
                message = f"only {Section.API} and {Section.SOCKET} may have URLs and paths"
            raise AddressError(Code.BAD_HOST, message)
        written, port = split_port(text)
        return normalise_host(written), port, None


def _oddities(section: Section, host: str, address: str) -> Iterator[tuple[Code, str]]:
    """Return the code and the message of each warning about an entry's address."""
    if section is Section.IPS and not is_ip(host):
        yield Code.NAME_IN_IP_LIST, "a host name under IPList: it belongs under DomainList"
    if section is Section.DOMAINS and is_ip(host):
        yield Code.IP_IN_DOMAIN_LIST, "an IP address under DomainList: it belongs under IPList"
    if is_ip(host) and (meant := port_without_brackets(address)):
        message = f"an IPv6 address without a port; {meant} would be one with a port"
        yield Code.IPV6_WITHOUT_PORT, message


def _words(line: str, written: str) -> tuple[int, str]:
    """Return the column and the original text of a line without the white space around it."""
    start = len(line) - len(line.lstrip())
    return start + 1, written[start : len(line.rstrip())]


def _blank(text: str) -> str:
    """Replace invisible characters at the edges of words by spaces, so that columns stay."""
    return _EDGES.sub(lambda found: " " * len(found[0]), text)


def _misplaced_name(text: str) -> str | None:
    """Find the name of a section that is neither a valid header nor part of an address."""
    if not text.isascii():
        # Also find names in full-width letters, or with invisible characters inside.
        text = unicodedata.normalize("NFKC", _HIDDEN.sub("", text))
    for token in _WORD.finditer(text):
        for found in _NAMED.finditer(token[0][:MAX_WORD]):
            before = found.string[: found.start()]
            if not (
                _URL_BEFORE.match(before) or (_LABEL_BEFORE.fullmatch(before) and not found[2])
            ):
                return found[1]
    return None
