"""The processes that run the commands and the servers of this folder's tests."""

from collections.abc import Iterator

import pytest

from ..gunicorns import forking_servers
from .forks import forking


@pytest.fixture(scope="session", autouse=True)
def _forking() -> Iterator[None]:
    with forking(), forking_servers():
        yield
