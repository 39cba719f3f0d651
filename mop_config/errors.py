"""Every exception that mop-config raises on purpose.

Each keeps its arguments as they were, so that it survives the way through ``pickle``.

::

    MopConfigError
    ├── SettingsError      an environment variable that cannot be used
    ├── AddressError       a host, port or URL that is not one (also a ValueError)
    ├── PayloadError       JSON that is not an endpoint configuration (also a ValueError)
    ├── SourceError        the endpoint source cannot be read, or its text is refused as a whole
    ├── UpdateFailed       no source gave a list that could be read
    ├── UpdateRefused      a source gave a list that must not be applied
    └── NoEndpointAvailable
                           no endpoint could be reached (also httpx2's TransportError; it
                           stands in ``mop_config.client``, since httpx2 is an extra)
"""


class MopConfigError(Exception):
    """The base of all of them: catch this one to catch what mop-config can foresee."""


class SettingsError(MopConfigError):
    """An environment variable holds a value that cannot be used.

    Attributes:
        variable: The name of the environment variable.
        value: What it holds.
        allowed: What it may hold, in words.
    """

    def __init__(self, variable: str, value: str, allowed: str) -> None:
        super().__init__(variable, value, allowed)
        self.variable = variable
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.variable}={self.value!r} cannot be used: it must be {self.allowed}"


class AddressError(MopConfigError, ValueError):
    """A host, a port or a URL that cannot be used.

    Attributes:
        code: One of the problem codes of the endpoint file, such as ``bad-host``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class PayloadError(MopConfigError, ValueError):
    """JSON that is not an endpoint configuration.

    Attributes:
        field: Where in the document the fault is, such as ``api_endpoints[2].url``.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class SourceError(MopConfigError):
    """The endpoint source cannot be read, or its text is refused as a whole.

    Attributes:
        code: One of the whole-file problem codes, such as ``missing`` or ``not-utf8``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class UpdateFailed(MopConfigError):  # noqa: N818 - the contract's name
    """No source gave a list that could be read; the list stays as it was.

    Attributes:
        cause: ``unreachable``, ``unauthorized``, ``not_implemented`` or ``invalid``: what
            went wrong at the source that counts most, which is the first one.
        attempts: Each source that was asked, and what went wrong there, in words.
    """

    def __init__(self, cause: str, attempts: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(cause, attempts)
        self.cause = cause
        self.attempts = attempts

    def __str__(self) -> str:
        tried = "; ".join(f"{url}: {what}" for url, what in self.attempts)
        return f"the endpoint list could not be updated ({self.cause}): " + (
            tried or "there is no source to ask"
        )


class UpdateRefused(MopConfigError):  # noqa: N818 - the contract's name
    """A source gave a list that would leave nothing that works; the list stays as it was.

    Attributes:
        url: The source.
        reason: Why.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason

    def __str__(self) -> str:
        return f"the endpoint list from {self.url} is refused: {self.reason}"
