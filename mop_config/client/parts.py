"""``ManagerParts``: the parts of a manager that its threads use. No part refers to the manager."""

import time
from dataclasses import dataclass

from ..health.probe import HealthRequest
from ..net.http import HttpClient
from .lists.endpoint_lists import EndpointLists
from .lists.token import Token
from .pool.session import ClientState
from .transport.options import TransportOptions


@dataclass(frozen=True, slots=True)
class ManagerParts:
    """The parts of a manager, and its settings.

    Attributes:
        state: The pools with the endpoints.
        lists: The endpoint lists.
        options: Options of the connections.
        token: The bearer token for sources of lists, or a function that returns the token.
        health: The request that a health check sends.
        update_interval: Seconds between two updates; 0 for none.
        watch: Whether to wait for a new list by a long poll.
        report: Whether to report the outcomes of requests to the server of the list.
    """

    state: ClientState
    lists: EndpointLists
    options: TransportOptions
    token: Token
    health: HealthRequest
    update_interval: float
    watch: bool
    report: bool

    def new_client(self) -> HttpClient:
        """Create a client for the sources of lists; its ``abort`` cancels its requests."""
        policy = self.state.policy
        return HttpClient(
            self.options.for_dial(policy.connect_timeout),
            self.state.resolver,
            connect_within=max(policy.connect_timeout, policy.health_timeout),
            proxy_for=self.options.proxy_for,
        )

    def deadline(self) -> float:
        """Return the deadline of a request that begins now, in monotonic seconds."""
        return time.monotonic() + self.state.policy.total_timeout
