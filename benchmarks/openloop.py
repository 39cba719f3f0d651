"""Open-loop load: requests leave on schedule, however slow the answers are.

A closed loop sends the next request only after an answer, and so hides a stall.
Here the latency counts from the moment at which the request should have left.
"""

import http.client
import json
import queue
import sys
import threading
import time


def run(port: int, seconds: float, rate: float, requests: list[tuple[str, str]]) -> list[float]:
    """Send ``rate`` requests per second in turn; return their latencies in seconds.

    A request that fails counts as infinitely slow.
    """
    jobs: queue.SimpleQueue[tuple[float, str, str] | None] = queue.SimpleQueue()
    latencies: list[float] = []
    threads = [threading.Thread(target=_client, args=(port, jobs, latencies)) for _ in range(16)]
    for thread in threads:
        thread.start()
    started = time.perf_counter()
    for number in range(int(seconds * rate)):
        due = started + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        method, path = requests[number % len(requests)]
        jobs.put((due, method, path))
    for _ in threads:
        jobs.put(None)
    for thread in threads:
        thread.join()
    return latencies


def _client(
    port: int,
    jobs: "queue.SimpleQueue[tuple[float, str, str] | None]",
    latencies: list[float],
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while (job := jobs.get()) is not None:
        due, method, path = job
        try:
            connection.request(method, path)
            response = connection.getresponse()
            response.read()
            latencies.append(time.perf_counter() - due if response.status < 400 else float("inf"))
        except OSError:
            connection.close()
            latencies.append(float("inf"))
    connection.close()


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    print(json.dumps(run(**arguments)))
