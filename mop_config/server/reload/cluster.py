"""A reload of all workers of a host: wait until every worker has answered the request.

``POST /reload`` reaches one worker. That worker writes a request into the state folder (see
``requests``) and reads the records of the others until each of them names the request.
"""

import time
from collections.abc import Callable

from ..state.worker_record import WorkerRecord, reload_for
from .requests import ReloadRequests

#: Seconds within which the workers must answer a request to reload.
RELOAD_PATIENCE = 10.0
#: Seconds between two reads of the workers' records.
RELOAD_LOOK = 0.05


def wait_for_answers(
    requests: ReloadRequests,
    number: int,
    records: Callable[[bool], list[WorkerRecord]],
    stopping: Callable[[], bool],
    *,
    shared: bool,
) -> tuple[list[WorkerRecord], bool]:
    """Wait until all workers have answered a request, the patience is over or the process stops.

    Args:
        requests: The requests to reload.
        number: The number of the request.
        records: Returns the records of all workers of the host, or only of this one if its
            argument is false.
        stopping: Tells whether this process stops.
        shared: Whether the other workers can see the request.

    Returns:
        The records as they were read last, and whether the other workers could see the request
        all the time.
    """
    deadline = time.monotonic() + RELOAD_PATIENCE
    while True:
        workers = records(shared)
        missing = any(reload_for(worker, number) is None for worker in workers)
        if not missing or stopping() or time.monotonic() > deadline:
            return workers, shared
        shared = shared and requests.insist(number)
        time.sleep(RELOAD_LOOK)
