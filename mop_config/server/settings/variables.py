"""Variable: the declaration of one environment variable, and how declared variables are read."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from ...errors import SettingsError
from ...model.address import without_userinfo

T = TypeVar("T")

PREFIX = "ENDPOINT_"


@dataclass(frozen=True, slots=True)
class Variable:
    """The declaration of one environment variable.

    Attributes:
        default: The value while the variable is unset or empty.
        convert: Converts the text to the value; raises ``ValueError`` for a bad text.
        help: The meaning, in Markdown; the README's table shows it.
        name: The name in the environment; empty means ``ENDPOINT_`` and the name of the field.
        secret: Whether the text must not appear in an error message.
        keep_empty: Whether an empty text is converted like any other text; else it means the
            default.
        lenient: Whether a bad text only causes a warning, and the default is used.
    """

    default: Any
    convert: Callable[[str], Any]
    help: str
    name: str = ""
    secret: bool = False
    keep_empty: bool = False
    lenient: bool = False


def setting(default: T, convert: Callable[[str], T], help: str, **options: Any) -> T:  # noqa: A002
    """Declare a variable as a field of a dataclass of settings; see ``Variable`` for arguments."""
    variable = Variable(default, convert, help, **options)
    field: T = dataclasses.field(
        default=default, repr=not variable.secret, metadata={"variable": variable}
    )
    return field


def declared(settings: type) -> Iterator[tuple[str, Variable]]:
    """Return each field of a dataclass that a variable sets, with the declaration."""
    for field in dataclasses.fields(settings):
        if "variable" in field.metadata:
            variable: Variable = field.metadata["variable"]
            name = variable.name or PREFIX + field.name.upper()
            yield field.name, dataclasses.replace(variable, name=name)


def read(settings: type, environ: Mapping[str, str], warnings: list[str]) -> dict[str, Any]:
    """Return the value of each field that a variable sets; see ``setting``.

    Args:
        settings: The dataclass of settings.
        environ: The environment.
        warnings: Takes a warning for each bad text that is ignored.

    Raises:
        SettingsError: If a converter refuses a text.
    """
    return {name: _value(variable, environ, warnings) for name, variable in declared(settings)}


def _value(variable: Variable, environ: Mapping[str, str], warnings: list[str]) -> Any:
    written = environ.get(variable.name)
    value = (written or "").strip()
    if written is None or (not value and not variable.keep_empty):
        return variable.default
    try:
        return variable.convert(value)
    except ValueError as error:
        shown = "***" if variable.secret else without_userinfo(value)
        refused = SettingsError(variable.name, shown, str(error))
    if not variable.lenient:
        raise refused
    warnings.append(f"{refused}; it is ignored")
    return variable.default


def unknown(environ: Mapping[str, str], *settings: type) -> Iterator[str]:
    """Return a warning for each variable with our prefix that no dataclass declares."""
    known = sorted(variable.name for each in settings for _, variable in declared(each))
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            near = get_close_matches(name, known, 1, cutoff=0.0)[0]
            yield f"{name} is not a known variable: did you mean {near}?"
