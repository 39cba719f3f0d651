"""Tests of the endpoint file's grammar, and of every problem that a file can have."""

import json
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mop_config.model.address import secret_part
from mop_config.model.endpoint import dumps, loads
from mop_config.server.parsing.parser import MIN_ERRORS, Section, parse
from mop_config.server.parsing.problems import MAX_KEPT, Code, Problem, Severity
from mop_config.server.parsing.render import Built, build, render
from mop_config.server.settings import UrlRules

from ...conftest import GUIDE_JSON, SAMPLE

WHOLE_FILE = {Code.FEW_ENDPOINTS}


def built(text: str, **rules: object) -> Built:
    return build(parse(text), UrlRules(**rules))  # type: ignore[arg-type]


def api_urls(text: str, **rules: object) -> list[str]:
    return [endpoint.url for endpoint in built(text, **rules).config.api_endpoints]


def socket_urls(text: str, **rules: object) -> list[str]:
    return [endpoint.url for endpoint in built(text, **rules).config.socketio_endpoints]


def problems(text: str, **rules: object) -> list[Problem]:
    """Return the problems of a file, without the problems of the file as a whole."""
    return [p for p in built(text, **rules).problems.kept if p.code not in WHOLE_FILE]


def test_the_guides_example_gives_the_guides_json() -> None:
    """The sample file gives exactly the JSON that the guide prints."""
    assert (
        json.loads(
            render(
                SAMPLE.read_bytes(), UrlRules(), b'{"api_endpoints":[],"socketio_endpoints":[]}'
            ).body
        )
        == GUIDE_JSON
    )
    assert problems(SAMPLE.read_text()) == []


class TestLines:
    """Line ends, comments and separators."""

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_lines_end_at_lf_crlf_or_cr(self, end: str) -> None:
        """Files from all operating systems are parsed alike."""
        text = end.join(["DomainList:", "a.com", "b.com", ""])
        assert api_urls(text) == ["https://a.com/api/v1", "https://b.com/api/v1"]

    @pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x85", "\u2028", "\u2029", "\x1e"])
    def test_no_other_character_ends_a_line(self, separator: str) -> None:
        """Other Unicode line separators do not end a line."""
        (problem,) = problems(f"DomainList:\na.com,x_y{separator}\n b.com")
        assert (problem.line, problem.code) == (2, Code.BAD_HOST)

    def test_comments_start_a_line_or_follow_whitespace(self) -> None:
        """A number sign inside a word does not start a comment."""
        text = (
            "# DomainList: no\n  # no.com\nDomainList: # x\na.com # b.com\nc.com\t#d.com\ne.com#f"
        )
        assert api_urls(text) == ["https://a.com/api/v1", "https://c.com/api/v1"]
        (problem,) = problems(text)
        assert (problem.line, problem.column, problem.text) == (6, 1, "e.com#f")

    def test_commas_separate_entries_and_empty_ones_do_not_count(self) -> None:
        """The full-width comma of a Chinese keyboard separates entries as well."""
        assert api_urls("DomainList:\na.com,,b.com，c.com,\n,") == [
            f"https://{x}.com/api/v1" for x in "abc"
        ]

    def test_whitespace_around_anything_is_passed_over(self) -> None:
        """Tabs and the ideographic space are ignored too."""
        assert api_urls("\u3000DomainList:\u3000\n \t a.com \t, b.com\u3000\n") == [
            "https://a.com/api/v1",
            "https://b.com/api/v1",
        ]


class TestSections:
    """Headers, and the section that an entry belongs to."""

    @pytest.mark.parametrize(
        "header", ["domainlist:", "DOMAINLIST:", "DomainList：", "DomainList :"]
    )
    def test_names_are_case_insensitive_and_the_colon_may_be_full_width(self, header: str) -> None:
        """Every spelling of a header gives the same section."""
        assert api_urls(f"{header}\na.com") == ["https://a.com/api/v1"]

    def test_entries_on_the_headers_own_line_count(self) -> None:
        """The guide ignores these entries, which no operator intends."""
        assert api_urls("DomainList: a.com, b.com\nIPList：10.0.0.1") == [
            "https://a.com/api/v1",
            "https://b.com/api/v1",
            "https://10.0.0.1/api/v1",
        ]

    def test_sections_may_repeat_and_domains_come_first(self) -> None:
        """The order is domains, then addresses, each in file order, then the kind's own list."""
        text = (
            "ApiList:\nz.com\nIPList:\n10.0.0.1\nDomainList:\na.com\n"
            "IPList:\n10.0.0.2\nDomainList:\nb.com\n"
        )
        assert api_urls(text, api_path="") == [
            "https://a.com",
            "https://b.com",
            "https://10.0.0.1",
            "https://10.0.0.2",
            "https://z.com",
        ]

    def test_api_and_socket_lists_serve_one_kind_only(self) -> None:
        """A host there becomes a URL as elsewhere; a URL is used unchanged."""
        text = "ApiList:\na.com\nhttps://b.com/v2\nSocketList:\nwss://c.com:9000/ws\nd.com\n"
        assert api_urls(text) == ["https://a.com/api/v1", "https://b.com/v2"]
        assert socket_urls(text) == ["wss://c.com:9000/ws", "https://d.com"]

    @pytest.mark.parametrize(
        "header",
        ["FooList:", "BackupList: a.com", "foo bar:", "域名列表:", "域名：", "foolist:a.com"],
    )
    def test_an_unknown_section_is_left_out_until_the_next_known_one(self, header: str) -> None:
        """The header is one error, and its entries cause no further problems."""
        text = f"DomainList:\na.com\n{header}\nb.com, c.com\nIPList:\n10.0.0.1"
        assert api_urls(text, api_path="") == ["https://a.com", "https://10.0.0.1"]
        (problem,) = problems(text)
        assert (problem.code, problem.line, problem.column) == (Code.UNKNOWN_SECTION, 3, 1)

    @pytest.mark.parametrize(
        "entry", ["xx:8080", "fe80::", "2001:db8::7", "abcd:ef01:2345:6789:abcd:ef01:2345:6789"]
    )
    def test_a_port_or_an_ipv6_address_is_no_section(self, entry: str) -> None:
        """A line with a colon is not always a header."""
        assert len(api_urls(f"DomainList:\n{entry}\n")) == 1

    @pytest.mark.parametrize("name", ["IPList", "iplist", "DomainList", "ApiList", "socketlist"])
    def test_a_name_without_its_colon_is_an_error(self, name: str) -> None:
        """The entries below are left out, and never join the section before."""
        text = f"DomainList:\na.com\n{name}\n10.0.0.1\nIPList:\n10.0.0.2\n"
        (problem,) = problems(text)
        assert (problem.code, problem.line) == (Code.MISSING_COLON, 3)
        assert api_urls(text, api_path="") == ["https://a.com", "https://10.0.0.2"]

    @pytest.mark.parametrize(
        "line",
        [
            *("- SocketList:", "-SocketList:", "* SocketList", "[SocketList]", "[socketlist]:"),
            *('"SocketList":', "'SocketList': [", "**SocketList:**", "1. SocketList:"),
            *(
                "1.SocketList:",
                "1) SocketList",
                "<SocketList>",
                "【SocketList】",
                "「SocketList」：",
            ),
            *("SocketList =", "SocketList=", "SocketList;", "SocketList；", "SocketList."),
            *("SocketList -> x.com", "SocketList x.com", "SocketList priority=1", "_SocketList_:"),
            *(
                "ＳｏｃｋｅｔＬｉｓｔ：",
                "ＳｏｃｋｅｔＬｉｓｔ：x.com",
                "ＳｏｃｋｅｔＬｉｓｔ",
                "－ SocketList：",
            ),
            *("Socket\u200bList:", "Socket\u00adList", "// SocketList:", "//SocketList:"),
            *("x.com, SocketList: y.com", "x.com SocketList:", "section=SocketList"),
            *("Section: SocketList", "ApiList: SocketList: x.com", "my.SocketList:"),
        ],
    )
    def test_a_sections_name_in_another_form_adds_nothing_to_the_list_before(
        self, line: str
    ) -> None:
        """The line is one error; its entries and those below are left out."""
        text = f"DomainList:\na.com\n{line}\nb.com\n10.0.0.1\nIPList:\n10.0.0.2\n"
        assert api_urls(text, api_path="") == ["https://a.com", "https://10.0.0.2"]
        assert socket_urls(text) == ["https://a.com", "https://10.0.0.2"]
        (problem,) = problems(text)
        assert problem.code in {Code.UNKNOWN_SECTION, Code.MISSING_COLON}
        assert (problem.line, problem.column) == (3, 1)

    @pytest.mark.parametrize(
        ("section", "entry", "url"),
        [
            ("DomainList", "iplist.example.com", "https://iplist.example.com"),
            ("DomainList", "my-iplist.example.com", "https://my-iplist.example.com"),
            ("DomainList", "api.iplist", "https://api.iplist"),
            ("DomainList", "api.iplist:8080", "https://api.iplist:8080"),
            ("DomainList", "iplists", "https://iplists"),
            ("IPList", "10.0.0.1 server_name=iplist", "https://10.0.0.1"),
            ("ApiList", "https://iplist/v2", "https://iplist/v2"),
            ("ApiList", "https://iplist:8080", "https://iplist:8080"),
            ("ApiList", "https://a.com/IPList", "https://a.com/IPList"),
            ("ApiList", "https://a.com/x/IPList:1", "https://a.com/x/IPList:1"),
        ],
    )
    def test_a_sections_name_within_an_address_is_no_header(
        self, section: str, entry: str, url: str
    ) -> None:
        """A host may have the name of a section."""
        text = f"{section}:\n{entry}\nb.com\n"
        assert api_urls(text, api_path="") == [url, "https://b.com"]

    @pytest.mark.parametrize(
        "hidden", ["\ufeff", "\u200b", "\u00ad", "\u2060\u200e", "\ufe0f\u3164"]
    )
    @pytest.mark.parametrize(
        "header", ["{}SocketList:", "SocketList{}:", "SocketList:{}", "{} SocketList :"]
    )
    def test_invisible_characters_beside_a_header_are_passed_over(
        self, header: str, hidden: str
    ) -> None:
        """A byte order mark inside a file, as after cat a.txt b.txt, does not hide a header."""
        text = f"DomainList:\na.com\n{header.format(hidden)}\nb.com\n"
        assert api_urls(text, api_path="") == ["https://a.com"]
        assert socket_urls(text) == ["https://a.com", "https://b.com"]
        (problem,) = problems(text)
        assert (problem.code, problem.line) == (Code.INVISIBLE, 3)
        assert problem.severity is Severity.WARNING
        for character in hidden:
            assert f"U+{ord(character):04X}" in problem.message

    @pytest.mark.parametrize(
        "entry",
        [
            *("\u200bb.com", "b.com\u200b", "\u200b\ufeff b.com \u200b", "b.com\u200b priority=1"),
            *(
                "b.com priority=1\u200b",
                "b.com \u200bpriority=1",
                "b.com \u200b# c",
                "b.com\u200b,",
            ),
        ],
    )
    def test_invisible_characters_beside_an_entry_are_passed_over(self, entry: str) -> None:
        """The entry is used, and the columns are those of the file."""
        for section in ("DomainList", "ApiList"):
            text = f"{section}:\na.com\nc.com, {entry}\nx_y"
            assert api_urls(text, api_path="") == [f"https://{x}.com" for x in "acb"]
            hidden, bad = problems(text)
            assert (hidden.code, hidden.line) == (Code.INVISIBLE, 3)
            assert "U+200B ZERO WIDTH SPACE" in hidden.message
            assert (bad.code, bad.line, bad.column) == (Code.BAD_HOST, 4, 1)

    def test_an_invisible_character_ends_a_url(self) -> None:
        """The character is not percent-encoded into the path."""
        assert api_urls("ApiList:\nhttps://a.com/v2\u200b\n") == ["https://a.com/v2"]

    @pytest.mark.parametrize(
        "line", ["\ufeff# note", "\u200b", "\ufeff", "# ⚠\ufe0f note", "b.com # ⚠\ufe0f"]
    )
    def test_invisible_characters_in_comments_and_blank_lines_are_nothing(self, line: str) -> None:
        """A byte order mark before a comment does not make the comment an entry."""
        assert problems(f"DomainList:\na.com\n{line}\nc.com\n") == []

    @pytest.mark.parametrize("address", ["::1:8080", "2001:db8::7:443", "fe80::1:80"])
    def test_a_bare_ipv6_address_that_seems_to_have_a_port_is_a_warning(self, address: str) -> None:
        """The address is used without a port; the message shows the form with a port."""
        (problem,) = problems(f"IPList:\n{address}\n10.0.0.1\n")
        assert (problem.code, problem.severity) == (Code.IPV6_WITHOUT_PORT, Severity.WARNING)
        head, _, port = address.rpartition(":")
        assert f"[{head}]:{port}" in problem.message

    @pytest.mark.parametrize(
        "address", ["2001:db8::7", "::1", "[::1:8080]", "fe80::1:2", "1:2:3:4:5:6:7:8080"]
    )
    def test_other_ipv6_addresses_are_no_warning(self, address: str) -> None:
        """An address in brackets, or with eight groups, is not ambiguous."""
        assert problems(f"IPList:\n{address}\n10.0.0.1\n") == []

    @pytest.mark.parametrize(
        ("section", "entry", "column", "words"),
        [
            ("DomainList", "a.com/v2", 1, "path|ApiList"),
            ("DomainList", "a.com:80/v2", 1, "path|ApiList"),
            ("IPList", "10.0.0.1/v2", 1, "path|ApiList"),
            ("DomainList", "a.com?x=1", 1, "path|ApiList"),
            ("ApiList", "a.com/v2", 1, "path|https://"),
            ("DomainList", "a.com priorty=1", 7, "did you mean priority=N?"),
            ("DomainList", "a.com Priority", 7, "did you mean priority=N?"),
            ("IPList", "10.0.0.1 priority=1 servername=a", 21, "did you mean server_name=HOST?"),
            ("DomainList", "a.com b.com", 7, "a comma separates two entries"),
            ("DomainList", "a.com priority=x", 7, "0 to 65535"),
            ("IPList", "10.0.0.1 server_name=a_b", 10, "server_name"),
            ("IPList", "10.0.0.1 server_name=b.com:443", 10, "server_name|no port"),
            ("DomainList", "xn--a", 1, "not valid punycode"),
            ("IPList", "::1:18080", 1, "needs brackets"),
        ],
    )
    def test_a_message_names_the_cause_and_stands_at_the_word(
        self, section: str, entry: str, column: int, words: str
    ) -> None:
        """The message names the actual mistake, at the column of the word."""
        (problem,) = problems(f"{section}:\n{entry}\n")
        assert (problem.line, problem.column, problem.text) == (2, 1, entry)
        assert (problem.word or problem.column) == column
        for word in words.split("|"):
            assert word in problem.message

    def test_text_before_any_section_is_left_out(self) -> None:
        """Entries before the first header have no section."""
        text = "a.com, b.com\nDomainList:\nc.com"
        assert [(p.code, p.line, p.column) for p in problems(text)] == [
            (Code.NO_SECTION, 1, 1),
            (Code.NO_SECTION, 1, 8),
        ]
        assert api_urls(text, api_path="") == ["https://c.com"]

    def test_a_name_without_its_colon_before_any_section(self) -> None:
        """The message gives the correct header."""
        (problem, _) = problems("DomainList\na.com")
        assert problem.code is Code.MISSING_COLON
        assert "DomainList:" in problem.message


class TestEntries:
    """The forms of an entry, and its canonical spelling."""

    @pytest.mark.parametrize(
        ("entry", "url"),
        [
            ("a.com", "https://a.com"),
            ("A.COM", "https://a.com"),
            ("a.com.", "https://a.com"),
            ("xx", "https://xx"),
            ("a.com:8443", "https://a.com:8443"),
            ("a.com:443", "https://a.com:443"),
            ("12.34.56.78", "https://12.34.56.78"),
            ("12.34.56.78:80", "https://12.34.56.78:80"),
            ("2001:db8::7", "https://[2001:db8::7]"),
            ("[2001:DB8:0:0::7]", "https://[2001:db8::7]"),
            ("[2001:db8::7]:8443", "https://[2001:db8::7]:8443"),
            ("::ffff:1.2.3.4", "https://[::ffff:1.2.3.4]"),
            ("bücher.example", "https://xn--bcher-kva.example"),
            ("BÜCHER.example", "https://xn--bcher-kva.example"),
            ("例子。测试", "https://xn--fsqu00a.xn--0zwm56d"),
            ("xn--bcher-kva.example", "https://xn--bcher-kva.example"),
            ("１.２.３.４", "https://1.2.3.4"),
            ("a--b.com", "https://a--b.com"),
            ("3com.com", "https://3com.com"),
            ("a" * 63 + ".com", "https://" + "a" * 63 + ".com"),
        ],
    )
    def test_hosts_are_normalised(self, entry: str, url: str) -> None:
        """Each address has one canonical spelling."""
        assert api_urls(f"DomainList:\n{entry}\n", api_path="") == [url]

    @pytest.mark.parametrize(
        ("entry", "code"),
        [
            ("a..com", Code.BAD_HOST),
            (".com", Code.BAD_HOST),
            ("-a.com", Code.BAD_HOST),
            ("a-.com", Code.BAD_HOST),
            ("a_b.com", Code.BAD_HOST),
            ("a!b.com", Code.BAD_HOST),
            ("a" * 64 + ".com", Code.BAD_HOST),
            (".".join(["a" * 60] * 5), Code.BAD_HOST),
            ("xn--a.com", Code.BAD_HOST),
            ("ü_x.de", Code.BAD_HOST),
            ("😀.com", Code.BAD_HOST),
            ("https://a.com", Code.BAD_HOST),
            ("a.com/path", Code.BAD_HOST),
            (":8080", Code.BAD_HOST),
            ("a.com:0", Code.BAD_PORT),
            ("a.com:65536", Code.BAD_PORT),
            ("a.com:http", Code.BAD_PORT),
            ("a.com:", Code.BAD_PORT),
            ("a.com:８０", Code.BAD_PORT),
            ("a.com:-1", Code.BAD_PORT),
            ("a.com:999999999999999999999", Code.BAD_PORT),
            ("1.2.3.256", Code.BAD_IP),
            ("1.2.3", Code.BAD_IP),
            ("1.2.3.4.5", Code.BAD_IP),
            ("01.2.3.4", Code.BAD_IP),
            ("1234", Code.BAD_IP),
            ("0x7f.1", Code.BAD_IP),
            ("a.0x10", Code.BAD_IP),
            ("1::2::3", Code.BAD_IP),
            ("fe80::1%eth0", Code.BAD_IP),
            ("[::1", Code.BAD_IP),
            ("[::1]x", Code.BAD_IP),
            ("[a.com]", Code.BAD_IP),
            ("a:b:c", Code.BAD_IP),
            ("a.com：8443", Code.BAD_PORT),
            ("10.0.0.0/8", Code.CIDR),
            ("[::1]/128", Code.CIDR),
            ("2001:db8::/32", Code.CIDR),
            ("user:secret@a.com", Code.USERINFO),
            ("secret@a.com", Code.USERINFO),
            ("user:secret＠a.com", Code.USERINFO),
            ("secret%40a.com", Code.USERINFO),
            ("a.com prio=1", Code.UNKNOWN_ATTRIBUTE),
            ("a.com b.com", Code.UNKNOWN_ATTRIBUTE),
            ("a.com priority", Code.UNKNOWN_ATTRIBUTE),
            ("a.com priority=1 priority=2", Code.UNKNOWN_ATTRIBUTE),
            ("a.com priority=", Code.BAD_PRIORITY),
            ("a.com priority=-1", Code.BAD_PRIORITY),
            ("a.com priority=65536", Code.BAD_PRIORITY),
            ("a.com priority=1.5", Code.BAD_PRIORITY),
            ("a.com priority=٣", Code.BAD_PRIORITY),
            ("1.2.3.4 server_name=", Code.BAD_SERVER_NAME),
            ("1.2.3.4 server_name=4.3.2.1", Code.BAD_SERVER_NAME),
            ("1.2.3.4 server_name=a_b", Code.BAD_SERVER_NAME),
            ("1.2.3.4 server_name=b.com:443", Code.BAD_SERVER_NAME),
            ("a.com server_name=b.com", Code.BAD_SERVER_NAME),
            ("a.com:8443 priority=1 server_name=a.com", Code.BAD_SERVER_NAME),
            ("例え.jp server_name=b.com", Code.BAD_SERVER_NAME),
        ],
    )
    def test_a_bad_entry_is_left_out_and_the_others_are_used(self, entry: str, code: Code) -> None:
        """The problem has the line and the column of the entry."""
        text = f"DomainList:\nfirst.com\n  one.com,  {entry} ,two.com\n"
        assert api_urls(text, api_path="") == [
            "https://first.com",
            "https://one.com",
            "https://two.com",
        ]
        (problem,) = problems(text)
        assert (problem.code, problem.severity) == (code, Severity.ERROR)
        assert (problem.line, problem.column) == (3, 13)
        assert "secret" not in str(problem)
        if code is not Code.USERINFO:
            assert problem.text[:100] == entry[:100]

    @pytest.mark.parametrize(
        ("section", "url", "code"),
        [
            ("ApiList", "ws://a.com", Code.BAD_SCHEME),
            ("ApiList", "wss://a.com", Code.BAD_SCHEME),
            ("ApiList", "ftp://a.com", Code.BAD_SCHEME),
            ("SocketList", "ftp://a.com", Code.BAD_SCHEME),
            ("ApiList", "https://", Code.BAD_HOST),
            ("ApiList", "https://a.com?x=1", Code.BAD_URL),
            ("ApiList", "https://a.com/#top", Code.BAD_URL),
            ("ApiList", "https://a.com\\b", Code.BAD_URL),
            ("ApiList", "https://a.com/a<b", Code.BAD_URL),
            ("ApiList", "https://a.com:0/", Code.BAD_PORT),
            ("ApiList", "https://a_b.com", Code.BAD_HOST),
            ("ApiList", "https://a.com/100%", Code.BAD_URL),
            ("ApiList", "https://a.com/%zz", Code.BAD_URL),
            ("ApiList", "https://2001:db8::1/", Code.BAD_IP),
            ("ApiList", "https://me:secret@a.com/", Code.USERINFO),
            ("ApiList", "https://a.com/v1 server_name=b.com", Code.BAD_SERVER_NAME),
            ("SocketList", "wss://a.com server_name=b.com", Code.BAD_SERVER_NAME),
        ],
    )
    def test_a_bad_url_is_left_out(self, section: str, url: str, code: Code) -> None:
        """ApiList and SocketList take URLs of certain schemes, without query, fragment or user."""
        (problem,) = problems(f"{section}:\n{url}\n")
        assert problem.code is code
        assert "secret" not in str(problem)

    @pytest.mark.parametrize(
        "line",
        [
            "joe:hunter@a.com",
            "joe:hun,ter@a.com",
            "joe: hun ter@a.com",
            "https://joe:hunter@a.com",
            "x, joe:hunter@a.com, b_c",
            "jo@e:hunter@a.com:99999",
            "hunter@",
            "joe:hun #ter@a.com",
            "joe:hunter＠a.com",
            "joe:hunter%40a.com",
        ],
    )
    def test_a_password_is_never_echoed(self, line: str) -> None:
        """No problem of a line quotes the text before an @."""
        for section in ("DomainList", "ApiList", "SocketList"):
            for problem in built(f"{section}:\n{line}\n").problems.kept:
                assert not any(word in str(problem) for word in ("hun", "ter@", "jo"))

    def test_an_address_in_a_comment_hides_nothing(self) -> None:
        """Only text that may belong to a password is hidden."""
        (problem,) = problems("DomainList:\na_b.com  # ask joe@a.com\n")
        assert problem.text == "a_b.com"

    def test_a_name_is_explained_in_our_words(self) -> None:
        """The message states what IDNA does not allow, without quoting the name."""
        texts = ["😀.com", "ü_x.de", "אa.com", "xn--ü.com", "l·é.com"]
        for text in texts:
            (problem,) = problems(f"DomainList:\n{text}\n")
            assert problem.message.startswith("the host name has ")
            assert "codepoint" not in problem.message.lower()

    def test_urls_are_normalised(self) -> None:
        """Scheme and host in lower case, the path percent-encoded, the port as given."""
        text = "ApiList:\nHTTPS://A.Com:443/V2/ü%20x\nhttps://[2001:DB8::1]/\n"
        assert api_urls(text) == ["https://a.com:443/V2/%C3%BC%20x", "https://[2001:db8::1]/"]


class TestAttributes:
    """The attributes after an address."""

    def test_an_explicit_priority_changes_that_entry_alone(self) -> None:
        """The other priorities and the order stay the same."""
        config = built("DomainList:\na.com\nb.com priority=0\nc.com PRIORITY=65535, d.com").config
        assert [(e.url[8], e.priority) for e in config.api_endpoints] == [
            ("a", 0),
            ("b", 0),
            ("c", 65535),
            ("d", 3),
        ]

    def test_a_server_name_shows_in_the_json_only_where_given(self) -> None:
        """All other entries have the guide's form."""
        config = built("IPList:\n1.2.3.4 server_name=API.example.com\n5.6.7.8").config
        assert json.loads(dumps(config))["api_endpoints"] == [
            {"url": "https://1.2.3.4/api/v1", "priority": 0, "server_name": "api.example.com"},
            {"url": "https://5.6.7.8/api/v1", "priority": 1},
        ]

    def test_an_attribute_belongs_to_its_own_entry(self) -> None:
        """An attribute does not apply to the other entries of its line."""
        config = built("DomainList:\na.com priority=7, b.com").config
        assert [e.priority for e in config.api_endpoints] == [7, 1]


class TestPositions:
    """The positions that become priorities."""

    def test_bad_and_duplicate_entries_take_no_position(self) -> None:
        """A typo does not renumber the other entries."""
        config = built("DomainList:\na.com\na_b\nA.com\nb.com\n").config
        assert [(e.url, e.priority) for e in config.socketio_endpoints] == [
            ("https://a.com", 0),
            ("https://b.com", 1),
        ]

    def test_positions_are_counted_in_each_kind(self) -> None:
        """An entry of one kind does not shift the positions of the other kind."""
        config = built("ApiList:\nx.com\nDomainList:\na.com\nSocketList:\ny.com").config
        assert [e.priority for e in config.api_endpoints] == [0, 1]
        assert [e.priority for e in config.socketio_endpoints] == [0, 1]

    @pytest.mark.parametrize(
        ("text", "rules"),
        [
            ("DomainList:\na.com\nA.COM", {}),
            ("DomainList:\na.com\na.com:443", {}),
            ("DomainList:\na.com\na.com:80", {"protocol": "http"}),
            ("DomainList:\na.com\na.com:9000", {"default_port": 9000}),
            ("DomainList:\na.com\nIPList:\na.com", {}),
            ("DomainList:\na.com\na.com.", {}),
            ("IPList:\n::1\n[0:0::1]:443", {}),
        ],
    )
    def test_a_duplicate_is_a_warning_and_the_first_stays(
        self, text: str, rules: dict[str, object]
    ) -> None:
        """Case, default port and section do not make two addresses different."""
        found = [p for p in problems(text, **rules) if p.code is Code.DUPLICATE]
        assert [(p.severity, p.line) for p in found] == [(Severity.WARNING, text.count("\n") + 1)]
        assert len(api_urls(text, **rules)) == len(socket_urls(text, **rules)) == 1

    def test_a_kinds_own_list_is_compared_with_what_the_hosts_gave(self) -> None:
        """Duplicates are found by URL, whether it was generated or given."""
        text = (
            "DomainList:\na.com\nApiList:\nhttps://A.com:443/api/v1\nSocketList:\nhttps://a.com/\n"
        )
        assert [p.code for p in problems(text)] == [Code.DUPLICATE, Code.DUPLICATE]

    def test_another_port_is_another_endpoint(self) -> None:
        """Two servers may have the same host."""
        assert len(api_urls("DomainList:\na.com:8443\na.com:9443\na.com")) == 3


class TestUrls:
    """The URLs that are generated for a host."""

    @pytest.mark.parametrize(
        ("rules", "entry", "api", "socket"),
        [
            ({}, "a.com", "https://a.com/api/v1", "https://a.com"),
            ({"protocol": "http"}, "a.com", "http://a.com/api/v1", "http://a.com"),
            ({"api_path": ""}, "a.com", "https://a.com", "https://a.com"),
            ({"default_port": 8443}, "a.com", "https://a.com:8443/api/v1", "https://a.com:8443"),
            (
                {"default_port": 8443, "socket_path": "/ws"},
                "a.com",
                "https://a.com:8443/api/v1",
                "https://a.com/ws",
            ),
            (
                {"default_port": 8443, "socket_path": "/ws", "socket_port": 9000},
                "a.com",
                "https://a.com:8443/api/v1",
                "https://a.com:9000/ws",
            ),
            (
                {"default_port": 8443, "socket_port": 9000},
                "a.com",
                "https://a.com:8443/api/v1",
                "https://a.com:9000",
            ),
            (
                {"default_port": 8443, "socket_path": "/ws", "socket_port": 9000},
                "a.com:1",
                "https://a.com:1/api/v1",
                "https://a.com:1/ws",
            ),
            ({"socket_path": "/ws"}, "a.com:1", "https://a.com:1/api/v1", "https://a.com:1/ws"),
            ({"default_port": 443}, "a.com", "https://a.com:443/api/v1", "https://a.com:443"),
        ],
    )
    def test_ports_and_paths_go_where_the_rules_say(
        self, rules: dict[str, object], entry: str, api: str, socket: str
    ) -> None:
        """The port of the entry wins; the default port is not used with a Socket.io path."""
        text = f"DomainList:\n{entry}\n"
        assert api_urls(text, **rules) == [api]
        assert socket_urls(text, **rules) == [socket]


class TestWarnings:
    """Problems of entries that are used all the same."""

    def test_an_entry_under_the_wrong_list_is_used_where_it_stands(self) -> None:
        """The entry keeps the place of its section."""
        text = "DomainList:\n10.0.0.1\na.com\nIPList:\nb.com\n10.0.0.2, [::1]\n"
        assert [(p.code, p.line, p.severity) for p in problems(text)] == [
            (Code.IP_IN_DOMAIN_LIST, 2, Severity.WARNING),
            (Code.NAME_IN_IP_LIST, 5, Severity.WARNING),
        ]
        assert len(api_urls(text)) == 5

    @pytest.mark.parametrize(
        ("text", "kinds"),
        [
            ("", 2),
            ("DomainList:\na.com", 2),
            ("ApiList:\na.com\nb.com", 1),
            ("DomainList:\na.com\nb.com", 0),
        ],
    )
    def test_fewer_than_two_endpoints_of_a_kind(self, text: str, kinds: int) -> None:
        """Failover needs at least two endpoints, as the guide says."""
        codes = [p.code for p in built(text).problems.kept]
        assert codes.count(Code.FEW_ENDPOINTS) == kinds

    def test_plain_http_in_a_given_url(self) -> None:
        """The problem is at the entry."""
        text = "ApiList:\nhttp://a.com\nhttps://b.com\nSocketList:\nws://c.com\nwss://d.com\n"
        assert [(p.code, p.line) for p in problems(text)] == [
            (Code.PLAIN_HTTP, 2),
            (Code.PLAIN_HTTP, 5),
        ]

    def test_plain_http_in_generated_urls_is_told_once(self) -> None:
        """The setting is reported once, not once for each host."""
        (problem,) = problems("DomainList:\na.com\nb.com", protocol="http")
        assert problem.code is Code.PLAIN_HTTP


def test_the_first_hundred_problems_are_kept_and_the_counts_are_exact() -> None:
    """The problems are in file order, whichever step found them."""
    text = "DomainList:\n" + "a_b\n" * 150 + "c.com\n" * 150 + "DomainList: a_b"
    found = built(text).problems
    assert (found.counts[Severity.ERROR], found.counts[Severity.WARNING]) == (151, 149 + 2)
    assert len(found.kept) == MAX_KEPT
    assert [p.line for p in found.kept] == [1, 1, *range(2, 100)]


def test_errors_behind_a_hundred_warnings_are_named() -> None:
    """An operator can see which errors there are, even after many warnings."""
    warnings = "DomainList:\nc.com\nd.com\n" + "c.com\n" * 150
    found = built(warnings + "a_b\n" * 3 + "c.com\n" + "9.10.11.999\n").problems
    assert (found.counts[Severity.ERROR], found.counts[Severity.WARNING]) == (4, 151)
    assert len(found.kept) == MAX_KEPT
    errors = [p for p in found.kept if p.severity is Severity.ERROR]
    assert [p.line for p in errors] == [154, 155, 156, 158]
    assert [p.line for p in found.kept] == [*range(4, 100), 154, 155, 156, 158]
    many = built(warnings + "a_b\n" * 300).problems.kept
    assert sum(p.severity is Severity.ERROR for p in many) == MIN_ERRORS
    assert len(many) == MAX_KEPT


def test_an_early_problem_of_a_late_step_displaces_a_late_one() -> None:
    """Duplicates are found after parsing, but are listed in file order."""
    text = "DomainList:\na.com\na.com\nb.com\n" + "a_b\n" * 200
    kept = built(text).problems.kept
    assert [p.code for p in kept if p.line == 3] == [Code.DUPLICATE]


def test_the_column_counts_code_points() -> None:
    """A wide character counts one column, and so does a tab."""
    (problem,) = problems("DomainList:\n\t例.com,a.com,\t x_y")
    assert (problem.line, problem.column, problem.text) == (2, 16, "x_y")


# -- the oracle: what the guide's rules give, written from the guide's description

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True).filter(
    lambda label: not label.startswith("xn--")
)
NAME = st.builds(
    lambda labels, last: ".".join([*labels, last]),
    st.lists(LABEL, max_size=3),
    st.from_regex(r"[a-z]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True).filter(
        lambda label: not label.startswith("xn--") and not label.endswith("list")
    ),
)
ADDRESS = st.ip_addresses(v=4).map(str)
HOST = NAME | ADDRESS
BLANK = st.text(" \t", max_size=3)
HOSTS = st.lists(st.tuples(BLANK, HOST | st.just(""), BLANK).map("".join), min_size=1, max_size=4)
NOISE = st.text(string.ascii_letters + " ,:#", max_size=12)
LINE = st.one_of(
    HOSTS.map(",".join),
    BLANK,
    st.tuples(BLANK, st.just("#"), NOISE).map("".join),
    st.tuples(
        BLANK, st.sampled_from(["DomainList:", "IPList:", "domainlist:", "IPLIST:"]), BLANK
    ).map("".join),
)
PORT = st.none() | st.integers(1, 65535)


def what_the_guide_says(
    lines: list[str], protocol: str, api_path: str, socket_path: str, port: int | None
) -> dict[str, list[dict[str, object]]]:
    """Parse like the guide: sections, comment lines, commas; domains first, then addresses."""
    lists: dict[str, list[str]] = {"domainlist:": [], "iplist:": []}
    current: list[str] | None = None
    for line in map(str.strip, lines):
        if not line or line[0] == "#":
            continue
        header = next((name for name in lists if line.lower().startswith(name)), None)
        if header is not None:
            current = lists[header]
        elif current is not None:
            current += [item.strip() for item in line.split(",") if item.strip()]
    hosts = list(dict.fromkeys(lists["domainlist:"] + lists["iplist:"]))  # the contract drops twins
    with_port = f":{port}" if port else ""
    socket_port = "" if socket_path else with_port
    return {
        "api_endpoints": [
            {"url": f"{protocol}://{host}{with_port}{api_path}", "priority": i}
            for i, host in enumerate(hosts)
        ],
        "socketio_endpoints": [
            {"url": f"{protocol}://{host}{socket_port}{socket_path}", "priority": i}
            for i, host in enumerate(hosts)
        ],
    }


@given(
    lines=st.lists(LINE, max_size=12),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    protocol=st.sampled_from(["http", "https"]),
    api_path=st.sampled_from(["", "/api/v1", "/v2"]),
    socket_path=st.sampled_from(["", "/socket", "/ws"]),
    port=PORT,
)
@example(SAMPLE.read_text().split("\n"), "\n", "https", "/api/v1", "", None)
def test_what_the_guides_rules_can_say_means_what_the_guide_says(
    lines: list[str], end: str, protocol: str, api_path: str, socket_path: str, port: int | None
) -> None:
    """For every file that the guide's rules cover, the result equals the guide's."""
    config = built(
        end.join(lines),
        protocol=protocol,
        api_path=api_path,
        socket_path=socket_path,
        default_port=port,
    ).config
    expected = what_the_guide_says(lines, protocol, api_path, socket_path, port)
    assert json.loads(dumps(config)) == expected


@given(st.text() | st.text("DomainListIP:：,，#@[]./- \n\r\t12ab=é" + "\u2028\x0b", max_size=200))
def test_no_text_makes_the_parser_raise(text: str) -> None:
    """Every text gives a list, and problems in file order."""
    config, found, *_ = built(text)
    assert found.kept == sorted(found.kept)
    assert len(found.kept) == min(MAX_KEPT, found.counts.total())
    assert loads(dumps(config)) == config
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for problem in found.kept:
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
        if problem.text and not secret_part(lines[problem.line - 1]):
            shown = problem.text.removesuffix("…")
            assert lines[problem.line - 1][problem.column - 1 :].startswith(shown)


@pytest.mark.parametrize(
    "line",
    [
        "a" * 1_000_000,
        "a." * 500_000,
        "a-" * 500_000,
        "a " * 500_000,
        " " * 1_000_000 + "x",
        "a" + " " * 1_000_000 + "b",
        "list " * 200_000,
        "list" * 250_000,
        "a," * 100_000,
        "#" * 1_000_000,
        " #" * 500_000,
        ":" * 1_000_000,
        "[" * 1_000_000,
        "@" * 1_000_000,
        "1." * 500_000,
        "é" * 500_000,
        "a=" * 500_000,
    ],
    ids=lambda line: repr(line[:6]),
)
@pytest.mark.slow
def test_a_monstrous_line_takes_no_more_than_its_length(line: str) -> None:
    """No regular expression backtracks: a line as long as the largest file takes seconds."""
    parse("DomainList:\n" + line)
    parse("ApiList:\nhttps://" + line)


_HOST = st.from_regex(r"[a-z]{1,3}[0-9]{0,2}(-[a-z])?(\.[a-z]{2,5}){0,2}", fullmatch=True)
_PORT = st.just("") | st.from_regex(r":[0-9]{1,5}", fullmatch=True)
_MORE = st.lists(
    st.from_regex(
        r" (priority=[0-9]{1,6}|server_name=[a-z]{1,70}\.com|#[ a-z:,@]{0,9})", fullmatch=True
    ),
    max_size=3,
).map("".join)
_IP = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){3}", fullmatch=True)
_LIST = st.sampled_from(["domainlist", "mylist", "iplist"])


_ENTRY = st.builds("{}{}{}".format, _HOST | _IP | _LIST, _PORT, _MORE)


@given(st.sampled_from(list(Section)), _ENTRY)
@pytest.mark.slow
def test_the_common_line_is_read_as_any_other(section: Section, line: str) -> None:
    """The fast path gives the same as the full parser, which a form feed in the line selects."""
    short, long = (parse(f"{section}:\n{text}\n") for text in (line, line + "\x0c"))
    assert short.entries == long.entries
    assert short.problems.kept == long.problems.kept


@given(st.sampled_from(list(Section)), st.lists(_ENTRY, min_size=1, max_size=4))
@pytest.mark.slow
def test_the_common_part_of_a_line_is_read_as_any_other(section: Section, parts: list[str]) -> None:
    """The fast path of an entry between commas gives the same as the full parser, too."""
    lines = (",".join(part + blank for part in parts) for blank in (" ", "\x0c"))
    short, long = (parse(f"{section}: {line}\n") for line in lines)
    assert short.entries == long.entries
    kept = [p._replace(text=p.text.replace("\x0c", " ")) for p in long.problems.kept]
    assert short.problems.kept == kept
