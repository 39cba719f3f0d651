"""The process that runs the commands of this folder's tests."""

from collections.abc import Iterator

import pytest

from .forks import forking


@pytest.fixture(scope="session", autouse=True)
def _forking() -> Iterator[None]:
    with forking():
        yield
