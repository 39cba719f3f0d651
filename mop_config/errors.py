"""Every exception that mop-config raises on purpose.

Each keeps its arguments as they were, so that it survives the way through ``pickle``.

::

    MopConfigError
    ├── SettingsError      an environment variable that cannot be used
    ├── AddressError       a host, port or URL that is not one (also a ValueError)
    ├── PayloadError       JSON that is not an endpoint configuration (also a ValueError)
    ├── QrTooLong          a text that no QR code holds (also a ValueError)
    ├── QrUnreadable       an image without a QR code that can be read (also a ValueError)
    ├── SourceError        the endpoint source cannot be read, or its text is refused as a whole
    ├── SigningKeyError    a key that lists cannot be signed or verified with (also a ValueError)
    ├── SignatureError     a text that is no list signed by a trusted key (also a ValueError)
    ├── MissingExtra       an extra of this package is needed (also a ModuleNotFoundError)
    ├── UpdateFailed       no source gave a list that could be read
    ├── UpdateRefused      a source gave a list that must not be applied
    │   └── UpdateUntrusted
    │                      it is not signed by a trusted key, or is expired or too old
    └── NoEndpointAvailable
                           no endpoint could be reached (also httpx2's TransportError; it
                           stands in ``mop_config.client``)
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
        message: What is wrong with it.
        value: What was given, without user name and password; empty where nobody knows.
    """

    def __init__(self, code: str, message: str, value: str = "") -> None:
        super().__init__(code, message, value)
        self.code = code
        self.message = message
        self.value = value

    def __str__(self) -> str:
        return f"{self.value!r}: {self.message}" if self.value else self.message


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


class QrTooLong(MopConfigError, ValueError):  # noqa: N818 - as the others of its kind
    """A text that does not fit into a QR code.

    Attributes:
        format: ``full``, ``list`` or ``single``, or ``text`` where it is none of ours.
        size: Bytes that it takes.
        capacity: Bytes that there is room for.
        fits: What would fit: forms, each with its limit (endpoints of each kind) or None.
    """

    def __init__(
        self,
        format: str,  # noqa: A002 - as in the route and on the command line
        size: int,
        capacity: int,
        fits: tuple[tuple[str, int | None], ...] = (),
    ) -> None:
        super().__init__(format, size, capacity, fits)
        self.format = format
        self.size = size
        self.capacity = capacity
        self.fits = fits

    def __str__(self) -> str:
        form = "the text" if self.format == "text" else f"the {self.format} form"
        room = f"{form} takes {self.size} bytes, and there is room for {self.capacity}: "
        fits = [f"format {form}" + (f" with limit {n}" if n else "") for form, n in self.fits]
        return room + (f"what fits is {', or '.join(fits)}" if fits else "no form fits")


class QrUnreadable(MopConfigError, ValueError):  # noqa: N818 - as the others of its kind
    """An image out of which no QR code can be read.

    Attributes:
        image: Its name.
        reason: Why not.
    """

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(image, reason)
        self.image = image
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.image}: {self.reason}"


class SourceError(MopConfigError):
    """The endpoint source cannot be read, or its text is refused as a whole.

    Attributes:
        code: One of the whole-file problem codes, such as ``missing`` or ``not-utf8``.
        line: Where in the text, from 1; 1 where it is the source as a whole.
        column: Where in that line, from 1, in code points.
    """

    def __init__(self, code: str, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(code, message, line, column)
        self.code = code
        self.message = message
        self.line = line
        self.column = column

    def __str__(self) -> str:
        return self.message


class SigningKeyError(MopConfigError, ValueError):
    """A key that lists cannot be signed or verified with; the message never shows it."""


class SignatureError(MopConfigError, ValueError):
    """A text that is not, or not any more, a list that a trusted key has signed.

    Attributes:
        code: ``not-signed`` (no JWS at all), ``bad-header``, ``unknown-key``,
            ``bad-signature``, ``bad-claims`` (signed, but no list), ``expired``, ``older``
            (than a list that was taken before), or ``ahead`` (a version in the future).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class MissingExtra(MopConfigError, ModuleNotFoundError):  # noqa: N818 - says what is to be done
    """Something needs an extra of this package that is not installed.

    Attributes:
        what: What needs it.
        extra: The name of the extra.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(what, extra)
        self.what = what
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.what} needs the extra '{self.extra}': pip install 'mop-config[{self.extra}]'"


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


class UpdateUntrusted(UpdateRefused):
    """A list is refused since nobody vouches for it; the list stays as it was.

    Attributes:
        url: Where it came from.
        reason: Why it is refused.
        code: The same in a word; see ``SignatureError``.
    """

    def __init__(self, url: str, reason: str, code: str) -> None:
        super().__init__(url, reason)
        self.args = (url, reason, code)
        self.code = code
