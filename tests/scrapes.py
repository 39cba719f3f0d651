"""A parsed scrape of the metrics, as Prometheus reads it."""

import subprocess
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from .conftest import need_program

#: Every metric of the contract, its type and its labels.
METRICS = {
    "mop_config_requests": ("counter", {"route", "status"}),
    "mop_config_reloads": ("counter", {"trigger", "result"}),
    "mop_config_auth_failures": ("counter", set()),
    "mop_config_last_reload_successful": ("gauge", set()),
    "mop_config_last_reload_success_timestamp_seconds": ("gauge", set()),
    "mop_config_reload_duration_seconds": ("histogram", set()),
    "mop_config_endpoints": ("gauge", {"kind"}),
    "mop_config_problems": ("gauge", {"severity"}),
    "mop_config_waiters": ("gauge", set()),
    "mop_config_endpoint_up": ("gauge", {"kind", "url"}),
    "mop_config_endpoint_response_seconds": ("gauge", {"kind", "url"}),
    "mop_config_client_reports": ("gauge", {"kind", "url", "fault"}),
    "mop_config_endpoint_certificate_expiry_timestamp_seconds": ("gauge", {"kind", "url"}),
}


class Scrape:
    """The metrics in one answer of ``/metrics``.

    Args:
        text: The answer's body.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [
            (sample.name, sample.labels, sample.value)
            for family in self.families.values()
            for sample in family.samples
        ]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum over all series that have these labels."""
        return sum(value for _, value in self._series(name, labels))

    def series(self, name: str, label: str) -> dict[str, float]:
        """Return the values of a metric by the values of one label."""
        return {found[label]: value for found, value in self._series(name, {})}

    def counters(self) -> dict[tuple[str, ...], float]:
        """Return every series that may only rise."""
        return {
            (name, *sorted(map("=".join, labels.items()))): value
            for name, labels, value in self.samples
            if name.endswith(("_total", "_bucket", "_count", "_sum"))
        }

    def _series(self, name: str, wanted: dict[str, str]) -> Iterator[tuple[dict[str, str], float]]:
        for found, labels, value in self.samples:
            if found == name and wanted.items() <= labels.items():
                yield labels, value


def check_with_promtool(text: str) -> None:
    """Check that promtool's linter has no complaint about a scrape."""
    result = subprocess.run(
        [need_program("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
