"""Fixtures of the client's tests: fleets of real servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .driver import KINDS
from .fleet import Fleet, fleet_in


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the two drivers in turn."""
    return str(request.param)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet of the test's own, whose servers it may kill."""
    with fleet_in(tmp_path) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet that a module's tests share; none may break it."""
    with fleet_in(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet
