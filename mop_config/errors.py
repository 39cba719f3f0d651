"""Every exception that mop-config raises on purpose.

Each exception keeps its arguments unchanged, so that it can be pickled.

::

    MopConfigError
    ├── SettingsError      an environment variable has an invalid value
    ├── AddressError       an invalid host, port or URL (also a ValueError)
    ├── PayloadError       JSON that is not an endpoint list (also a ValueError)
    ├── QrTooLong          a text that is too long for a QR code (also a ValueError)
    ├── QrUnreadable       an image without a readable QR code (also a ValueError)
    ├── SourceError        the source cannot be read, or its text is rejected as a whole
    ├── SigningKeyError    a key that cannot sign or verify lists (also a ValueError)
    ├── SignatureError     a text that is not a list signed by a trusted key (also a ValueError)
    ├── MissingExtra       an extra of this package is not installed (also a ModuleNotFoundError)
    ├── UpdateFailed       no source returned a readable list
    ├── UpdateRefused      a source returned a list that must not be applied
    │   └── UpdateUntrusted
    │                      the list has no trusted signature, or is expired or too old
    └── NoEndpointAvailable
                           no endpoint could be reached (also an httpx2.TransportError; it is
                           defined in ``mop_config.client``, which imports httpx2)
"""


class MopConfigError(Exception):
    """The base class of all exceptions that mop-config raises on purpose."""


class SettingsError(MopConfigError):
    """An environment variable has an invalid value.

    Attributes:
        variable: The name of the environment variable.
        value: The value of the variable.
        allowed: A description of the values that are allowed.
    """

    def __init__(self, variable: str, value: str, allowed: str) -> None:
        super().__init__(variable, value, allowed)
        self.variable = variable
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.variable}={self.value!r} cannot be used: it must be {self.allowed}"


class AddressError(MopConfigError, ValueError):
    """An invalid host, port or URL.

    Attributes:
        code: A problem code of the endpoint file, such as ``bad-host``.
        message: The reason.
        value: The invalid text without user name and password, or an empty text if unknown.
    """

    def __init__(self, code: str, message: str, value: str = "") -> None:
        super().__init__(code, message, value)
        self.code = code
        self.message = message
        self.value = value

    def __str__(self) -> str:
        return f"{self.value!r}: {self.message}" if self.value else self.message


class PayloadError(MopConfigError, ValueError):
    """JSON that is not an endpoint list.

    Attributes:
        field: The invalid member, such as ``api_endpoints[2].url``.
        message: The reason.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class QrTooLong(MopConfigError, ValueError):  # noqa: N818 - named like UpdateFailed
    """A text that does not fit into a QR code.

    Attributes:
        format: ``full``, ``list`` or ``single``, or ``text`` for a text of another form.
        size: Size of the text in bytes.
        capacity: Capacity of the code in bytes.
        fits: The forms that would fit, each with its limit (endpoints of each kind) or None.
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
        room = f"{form} takes {self.size} bytes, and the code has room for {self.capacity}: "
        fits = [f"format {form}" + (f" with limit {n}" if n else "") for form, n in self.fits]
        return room + (f"what fits is {', or '.join(fits)}" if fits else "no form fits")


class QrUnreadable(MopConfigError, ValueError):  # noqa: N818 - named like UpdateFailed
    """An image from which no QR code can be read.

    Attributes:
        image: The name of the image.
        reason: The reason.
    """

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(image, reason)
        self.image = image
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.image}: {self.reason}"


class SourceError(MopConfigError):
    """The source cannot be read, or its text is rejected as a whole.

    Attributes:
        code: A problem code for the whole file, such as ``missing`` or ``not-utf8``.
        message: The reason.
        line: Line of the fault, counted from 1; 1 if the whole source is at fault.
        column: Column of the fault in code points, counted from 1.
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
    """A key that cannot sign or verify lists; the message never contains the key."""


class SignatureError(MopConfigError, ValueError):
    """A text that is not a valid list signed by a trusted key.

    Attributes:
        code: ``not-signed`` (not a JWS), ``bad-header``, ``unknown-key``, ``bad-signature``,
            ``bad-claims`` (the payload is not a list), ``expired``, ``older`` (than a list that
            was applied before), or ``ahead`` (the version is in the future).
        message: The reason.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class MissingExtra(MopConfigError, ModuleNotFoundError):  # noqa: N818 - named like UpdateFailed
    """A feature needs an extra of this package that is not installed.

    Attributes:
        what: The feature.
        extra: The name of the extra.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(what, extra)
        self.what = what
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.what} needs the extra '{self.extra}': pip install 'mop-config[{self.extra}]'"


class UpdateFailed(MopConfigError):  # noqa: N818 - the contract's name
    """No source returned a readable list; the list in use is kept.

    Attributes:
        cause: ``unreachable``, ``unauthorized``, ``not_implemented`` or ``invalid``: the failure
            of the first source.
        attempts: The URL of each source that was tried, with a description of its failure.
    """

    def __init__(self, cause: str, attempts: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(cause, attempts)
        self.cause = cause
        self.attempts = attempts

    def __str__(self) -> str:
        tried = "; ".join(f"{url}: {what}" for url, what in self.attempts)
        return f"the endpoint list could not be updated ({self.cause}): " + (
            tried or "no source is configured"
        )


class UpdateRefused(MopConfigError):  # noqa: N818 - the contract's name
    """A list was rejected, for example because it would remove every healthy endpoint.

    The list in use is kept.

    Attributes:
        url: The source.
        reason: The reason.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason

    def __str__(self) -> str:
        return f"the endpoint list from {self.url} is refused: {self.reason}"


class UpdateUntrusted(UpdateRefused):
    """A list was rejected because its signature is missing, invalid, expired or too old.

    Attributes:
        url: The source.
        reason: The reason.
        code: The reason as a word; see ``SignatureError``.
    """

    def __init__(self, url: str, reason: str, code: str) -> None:
        super().__init__(url, reason)
        self.args = (url, reason, code)
        self.code = code
