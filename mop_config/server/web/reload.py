"""Reading the source in every worker of the host, now."""

import logging
from typing import Any

from flask import Blueprint, Response, request

from ..auth.policy import USER
from ..parsing.problems import Code
from . import current_service, live_json, problem_response

logger = logging.getLogger(__name__)

blueprint = Blueprint("reload", __name__)

_STATUS = {"applied": 200, "unchanged": 200, "rejected": 422, "error": 503, None: 504}


@blueprint.post("/reload")
def reload() -> Response:
    """Have every worker read its source, and answer when all have."""
    runtime = current_service()
    if runtime.keyring is None:
        detail = "no tokens are set (ENDPOINT_TOKENS, ENDPOINT_TOKENS_FILE): nobody may do this"
        return problem_response(403, detail)
    user = request.environ.get(USER)
    logger.info("reload asked for by %s", user)
    report, shared = runtime.reload_everywhere()
    problems = report.pop("problems")
    late = [worker["pid"] for worker in report["workers"] if worker["last_reload"] is None]
    members: dict[str, Any] = {"scope": "host" if shared else "worker", **report}
    if not shared:
        members["note"] = "the state folder cannot be written to: other workers were not asked"
    status = 504 if late and report["result"] in {"applied", "unchanged"} else None
    status = status or _STATUS[report["result"]]
    logger.info(
        "reload asked for by %s: %s in %d workers, %d have not answered",
        *(user, report["result"] or "no answer", len(report["workers"]) - len(late), len(late)),
    )
    if status in {200, 422}:
        members["problems"] = [p for p in problems if p["code"] != Code.TOKENS_LINE]
    if status == 200:
        return live_json(members)
    return problem_response(status, _detail(report, late), members)


def _detail(report: dict[str, Any], late: list[int]) -> str:
    errors = (
        worker["last_reload"]["error"] for worker in report["workers"] if worker["last_reload"]
    )
    found = next(filter(None, errors), "")
    missing = f"no answer yet from worker {', '.join(map(str, late))}" if late else ""
    return "; ".join(filter(None, (found, missing)))
