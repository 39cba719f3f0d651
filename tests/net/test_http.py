"""Tests of the HTTP rules that every caller of the network follows."""

import math
from email.utils import formatdate

import pytest

from mop_config.net.http import backoff, retry_after


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 1), (1, 1), (2, 2), (3, 4), (6, 30), (17, 30), (10**6, 30)]
)
def test_the_pause_doubles_up_to_its_limit(failures: int, seconds: float) -> None:
    """The pause doubles up to its limit, for any number of failures."""
    assert backoff(failures, 1.0, 30.0) == seconds
    assert backoff(failures, 1.0, math.inf) <= 2**16


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        (" 12 ", 12),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("9" * 400, math.inf),
        (formatdate(1060, usegmt=True), 60),
        (formatdate(940, usegmt=True), 0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str | None, seconds: float | None) -> None:
    """Retry-After is a number or a date; any other text counts as no header."""
    assert retry_after(text, 1000.0) == seconds
