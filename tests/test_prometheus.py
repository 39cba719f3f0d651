"""The files in deploy/prometheus: Prometheus' tools accept them, and their metrics exist."""

import json
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from .conftest import need_program
from .scrapes import METRICS
from .servers import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
ALERTMANAGER = FOLDER / "alertmanager.yml"
RULES, DASHBOARD = FOLDER / "rules.yml", FOLDER / "grafana-dashboard.json"

#: Names that a scrape adds to the metrics' own names: of counters and of the histogram.
_SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


def run_tool(name: str, *arguments: str | Path) -> str:
    """Run a program of Prometheus' or Alertmanager's, and return its standard output."""
    result = subprocess.run(
        [need_program(name), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


promtool = partial(run_tool, "promtool")
amtool = partial(run_tool, "amtool")


def expressions(node: Any) -> Iterator[str]:
    """Yield every query of the dashboard."""
    if isinstance(node, dict):
        yield from ([node["expr"]] if "expr" in node else [])
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from expressions(item)


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    """promtool's unit tests beside the alerts pass: each alert fires when it should."""
    promtool("check", "rules", RULES)
    promtool("test", "rules", FOLDER / "rules_test.yml")


def test_the_configuration_is_one(tmp_path: Path) -> None:
    """The configuration is valid with its rules, as printed and with the token."""
    promtool("check", "config", FOLDER / "prometheus.yml")
    text = (FOLDER / "prometheus.yml").read_text()
    guarded = text.replace("# authorization:", "authorization:").replace(
        "#   credentials_file: /etc/prometheus/mop-config.token",
        f"  credentials_file: {tmp_path / 'token'}",
    )
    assert guarded.count("\n    authorization:\n      credentials_file:") == 1
    (tmp_path / "token").write_text("secret")
    (tmp_path / "rules.yml").write_text(RULES.read_text())
    (tmp_path / "prometheus.yml").write_text(guarded)
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_alertmanager_takes_its_configuration() -> None:
    """Every alert goes to the operators, and each adapter of the documents has a receiver."""
    found = amtool("check-config", ALERTMANAGER)
    assert " - 1 receivers" in found
    assert " - 2 inhibit rules" in found
    for severity in re.findall(r"severity: (\w+)", RULES.read_text()):
        option = f"--config.file={ALERTMANAGER}"
        assert amtool("config", "routes", "test", option, f"severity={severity}") == "operators\n"
    text = ALERTMANAGER.read_text()
    named = set(re.findall(r"MopConfig\w+", text))
    assert named <= set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    manual = (ROOT / "docs" / "monitoring.md").read_text()
    for channel in ("dingtalk", "open.feishu.cn", "qyapi.weixin.qq.com"):
        assert channel in text
        assert channel in manual


def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    """Each query parses as Grafana sends it, with its variables filled in."""
    rules = []
    for number, expression in enumerate(expressions(json.loads(DASHBOARD.read_text()))):
        for name, value in (("job", ".+"), ("instance", ".+"), ("__rate_interval", "1m")):
            expression = expression.replace(f"${name}", value)
        assert "$" not in expression
        rules.append({"record": f"query{number}", "expr": expression})
    assert len(rules) > 10
    # JSON is YAML.
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


@pytest.mark.parametrize("path", [RULES, DASHBOARD], ids=lambda path: path.name)
def test_only_metrics_that_there_are_are_asked_for(path: Path) -> None:
    """The queries name existing metrics only, and each metric is in at least one query."""
    asked = set(re.findall(r"mop_config_\w+", path.read_text()))
    there = {name + suffix for name, (kind, _) in METRICS.items() for suffix in _SUFFIXES[kind]}
    assert asked <= there
    if path == DASHBOARD:
        assert {re.sub(r"_(total|bucket)$", "", name) for name in asked} == METRICS.keys()


def test_the_panels_of_the_dashboard_do_not_lie_on_each_other() -> None:
    """Each panel has a title and a place of its own in the grid of 24 columns."""
    taken: set[tuple[int, int]] = set()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        assert panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_every_metric_and_every_alert_is_explained() -> None:
    """docs/metrics.md lists every metric and alert with labels and type, and no others."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(mop_config_\w+)(?:\{([a-z,]+)\})?` \| (\w+) \|", text, re.MULTILINE)
    explained = {
        name.removesuffix("_total"): (kind, set(filter(None, labels.split(","))))
        for name, labels, kind in rows
    }
    assert explained == METRICS
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert re.findall(r"^\| `(MopConfig\w+)` \|", text, re.MULTILINE) == alerts
