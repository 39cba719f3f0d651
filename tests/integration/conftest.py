"""The process that runs the servers of this folder's tests."""

from collections.abc import Iterator

import pytest

from ..gunicorns import forking_servers


@pytest.fixture(scope="session", autouse=True)
def _forking_servers() -> Iterator[None]:
    with forking_servers():
        yield
