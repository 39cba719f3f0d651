"""``check`` and ``publish`` print the planned changes of the list with their times."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mop_config.cli import run
from mop_config.cli.output import plan_lines
from mop_config.model.endpoint import Kind
from mop_config.server.parsing.attributes import PlannedChange


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (7200, "2 hours"),
        (86400, "1 day"),
        (3 * 86400 + 60, "3 days"),
    ],
)
def test_a_planned_change_in_words(seconds: float, words: str) -> None:
    change = PlannedChange(1000 + seconds, Kind.API, False, "https://old.example")
    assert plan_lines([change], 1000) == [f"in {words}: − api https://old.example"]
    assert len(plan_lines([change] * 30, 1000)) == 21


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENDPOINT_STATE_DIR", str(tmp_path / "state"))
    moment = datetime.now(UTC) + timedelta(days=3, hours=1)
    path = tmp_path / "endpoints.txt"
    hosts = f"ApiList:\na.example\nb.example\nold.example until={moment:%Y-%m-%dT%H:%M:%SZ}\n"
    path.write_text(hosts + "SocketList:\nc.example\nd.example\n")
    return path


def test_check(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(file)]) == 0
    assert "in 3 days: − api https://old.example/api/v1\n" in capsys.readouterr().out
    assert run(["check", str(file), "--json"]) == 0
    (planned,) = json.loads(capsys.readouterr().out)["planned"]
    assert (planned["change"], planned["kind"]) == ("removed", "api")
    assert planned["url"] == "https://old.example/api/v1"


def test_publish(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["publish", str(file), "--out", str(tmp_path / "out")]) == 0
    assert "next change in 3 days: − api https://old.example/api/v1" in capsys.readouterr().err
