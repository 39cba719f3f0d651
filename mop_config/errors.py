"""The exceptions that applications catch; those of the network are in ``net/faults``.

Each exception can be pickled and copied.

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

from dataclasses import dataclass
from typing import Any


class MopConfigError(Exception):
    """The base class of all exceptions that mop-config raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The attributes carry the state, also of exceptions that were made with keywords.
        return _unpickled, (type(self), self.args), self.__dict__


def _unpickled(cls: type[MopConfigError], args: tuple[object, ...]) -> MopConfigError:
    return cls.__new__(cls, *args)


@dataclass(eq=False)
class CodedError(MopConfigError):
    """The base class of exceptions with a code for programs and a message for people.

    Attributes:
        code: The reason as a word.
        message: The reason.
    """

    code: str
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(eq=False)
class SettingsError(MopConfigError):
    """An environment variable has an invalid value.

    Attributes:
        variable: The name of the environment variable.
        value: The value of the variable.
        allowed: A description of the values that are allowed.
    """

    variable: str
    value: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.variable}={self.value!r} cannot be used: it must be {self.allowed}"


@dataclass(eq=False)
class AddressError(CodedError, ValueError):
    """An invalid host, port or URL.

    Attributes:
        code: A problem code of the endpoint file, such as ``bad-host``.
        message: The reason.
        value: The invalid text without user name and password, or an empty text if unknown.
    """

    value: str = ""

    def __str__(self) -> str:
        return f"{self.value!r}: {self.message}" if self.value else self.message


@dataclass(eq=False)
class PayloadError(MopConfigError, ValueError):
    """JSON that is not an endpoint list.

    Attributes:
        field: The invalid member, such as ``api_endpoints[2].url``.
        message: The reason.
    """

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


@dataclass(eq=False)
class QrTooLong(MopConfigError, ValueError):  # noqa: N818 - named like UpdateFailed
    """A text that does not fit into a QR code.

    Attributes:
        format: ``full``, ``list`` or ``single``, or ``text`` for a text of another form.
        size: Size of the text in bytes.
        capacity: Capacity of the code in bytes.
        fits: The forms that would fit, each with its limit (endpoints of each kind) or None.
    """

    format: str
    size: int
    capacity: int
    fits: tuple[tuple[str, int | None], ...] = ()

    def __str__(self) -> str:
        form = "the text" if self.format == "text" else f"the {self.format} form"
        room = f"{form} takes {self.size} bytes, and the code has room for {self.capacity}: "
        fits = [f"format {form}" + (f" with limit {n}" if n else "") for form, n in self.fits]
        return room + (f"what fits is {', or '.join(fits)}" if fits else "no form fits")


@dataclass(eq=False)
class QrUnreadable(MopConfigError, ValueError):  # noqa: N818 - named like UpdateFailed
    """An image from which no QR code can be read.

    Attributes:
        image: The name of the image.
        reason: The reason.
    """

    image: str
    reason: str

    def __str__(self) -> str:
        return f"{self.image}: {self.reason}"


@dataclass(eq=False)
class SourceError(CodedError):
    """The source cannot be read, or its text is rejected as a whole.

    Attributes:
        code: A problem code for the whole file, such as ``missing`` or ``not-utf8``.
        message: The reason.
        line: Line of the fault, counted from 1; 1 if the whole source is at fault.
        column: Column of the fault in code points, counted from 1.
    """

    line: int = 1
    column: int = 1


class SigningKeyError(MopConfigError, ValueError):
    """A key that cannot sign or verify lists; the message never contains the key."""


class SignatureError(CodedError, ValueError):
    """A text that is not a valid list signed by a trusted key.

    Attributes:
        code: ``not-signed`` (not a JWS), ``bad-header``, ``unknown-key``, ``bad-signature``,
            ``bad-claims`` (the payload is not a list), ``expired``, ``older`` (than a list that
            was applied before), or ``ahead`` (the version is in the future).
        message: The reason.
    """


@dataclass(eq=False)
class MissingExtra(MopConfigError, ModuleNotFoundError):  # noqa: N818 - named like UpdateFailed
    """A feature needs an extra of this package that is not installed.

    Attributes:
        what: The feature.
        extra: The name of the extra.
    """

    what: str
    extra: str

    def __str__(self) -> str:
        return f"{self.what} needs the extra '{self.extra}': pip install 'mop-config[{self.extra}]'"


@dataclass(eq=False)
class UpdateFailed(MopConfigError):  # noqa: N818 - the contract's name
    """No source returned a readable list; the list in use is kept.

    Attributes:
        cause: ``unreachable``, ``unauthorized``, ``not_implemented`` or ``invalid``: the failure
            of the first source.
        attempts: The URL of each source that was tried, with a description of its failure.
    """

    cause: str
    attempts: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        tried = "; ".join(f"{url}: {what}" for url, what in self.attempts)
        reason = tried or "no source is configured"
        return f"the endpoint list could not be updated ({self.cause}): {reason}"


@dataclass(eq=False)
class UpdateRefused(MopConfigError):  # noqa: N818 - the contract's name
    """A list was rejected, for example because it would remove every healthy endpoint.

    The list in use is kept.

    Attributes:
        url: The source.
        reason: The reason.
    """

    url: str
    reason: str

    def __str__(self) -> str:
        return f"the endpoint list from {self.url} is refused: {self.reason}"


@dataclass(eq=False)
class UpdateUntrusted(UpdateRefused):
    """A list was rejected because its signature is missing, invalid, expired or too old.

    Attributes:
        url: The source.
        reason: The reason.
        code: The reason as a word; see ``SignatureError``.
    """

    code: str
