"""The pytest plugin: the fixture ``scripted_fleet`` for the tests of applications."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def scripted_fleet() -> Iterator[Any]:
    """Endpoints on this machine that fail on command; see ``mop_config.client.testing``."""
    from .client.testing import ScriptedFleet  # not at the top: pytest loads every plugin

    with ScriptedFleet() as fleet:
        yield fleet
