"""The GitHub workflows match the published schema and the project's own rules."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

WORKFLOWS = sorted((Path(__file__).parent.parent / ".github" / "workflows").glob("*.yml"))


def loaded(name: str) -> dict[str, Any]:
    (path,) = (each for each in WORKFLOWS if each.stem == name)
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_each_keeps_to_the_schema(path: Path) -> None:
    """Each workflow matches the schema that check-jsonschema contains, so no network is needed."""
    command = [sys.executable, "-m", "check_jsonschema"]
    command += ["--builtin-schema", "vendor.github-workflows", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_each_starts_without_the_right_to_write(path: Path) -> None:
    """A workflow starts read-only, and each action is pinned to a release tag."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert document["permissions"] == {"contents": "read"}
    for use in re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8")):
        assert re.search(r"@(v\d+|release/v\d+)$", use), use


def test_every_supported_python_is_tested() -> None:
    """Every Python version from the lowest in setup.cfg on is tested."""
    versions = loaded("tests")["jobs"]["linux"]["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    assert set(loaded("tests")["jobs"]["client"]["strategy"]["matrix"]["os"]) == {
        "windows-2022",
        "macos-14",
    }


def test_the_site_is_built_strictly() -> None:
    """``make docs`` fails on a link that leads nowhere."""
    steps = [each.get("run") for each in loaded("tests")["jobs"]["docs"]["steps"]]
    assert "make docs" in steps
    recipe = (WORKFLOWS[0].parents[2] / "Makefile").read_text(encoding="utf-8")
    assert "mkdocs build --strict" in recipe


def test_a_release_is_attested_and_stores_no_password() -> None:
    """Releases use trusted publishing: the index trusts this workflow by its identity."""
    publish = loaded("release")["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    (step,) = (each for each in publish["steps"] if "pypi-publish" in each.get("uses", ""))
    assert step["with"] == {"attestations": True}
