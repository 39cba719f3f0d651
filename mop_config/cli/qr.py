"""``mop-config qr``: draw the QR code of a list, or read a code from an image."""

import json
import shutil
import sys
from pathlib import Path

import click

from .. import qr as codes
from ..errors import MopConfigError, PayloadError
from ..files import write_atomically
from ..model.endpoint import entry_of
from ..model.printable import blanked
from .input import env_file_option, read_list
from .output import complain, json_text, say
from .server_api import token_option

_FORM = click.Choice(codes.QR_FORMATS)
_LIMIT = click.IntRange(1, codes.MAX_LIMIT)
# Black and white from the fixed part of the palette, which terminal themes do not change.
_BLACK_ON_WHITE, _PLAIN = "\x1b[38;5;16;48;5;231m", "\x1b[0m"
_BLOCKS = " ▄▀█"


@click.command(epilog="Example: mop-config qr config/endpoints.txt --room-id lobby --out app.svg")
@click.argument("source", metavar="[FILE|URL]", required=False)
@click.option("--format", "form", type=_FORM, help="Form of the text  [the first that fits]")
@click.option("--room-id", metavar="TEXT", help="The room that the app joins.")
@click.option("--limit", type=_LIMIT, metavar="N", help="Only the best N endpoints of each kind.")
@click.option("--out", metavar="FILE", help="Write a .png or .svg image.")
@click.option("--scan", metavar="IMAGE", help="Read the code in an image instead.")
@click.option("--json", "as_json", is_flag=True, help="Print the content as JSON.")
@token_option
@env_file_option
def qr(
    source: str | None,
    form: str | None,
    room_id: str | None,
    limit: int | None,
    out: str | None,
    scan: str | None,
    as_json: bool,
    token_file: str | None,
) -> None:
    """Draw a QR code of the list in FILE, or of the list that the server at URL serves.

    The form "full" holds everything, "list" URLs only, and "single" one URL of each kind.
    A terminal shows the code itself, a pipe gets the text of the code. FILE defaults to
    ENDPOINT_CONFIG_FILE, else config/endpoints.txt. With --scan, print the content of the
    code in a PNG, JPEG, GIF, WebP or BMP image; exit 1 if the image has no code (needs the extra
    qr).
    """
    if scan is not None:
        if any((source, form, room_id, limit, out, token_file)):
            raise click.UsageError("--scan stands alone, or with --json")
        _show_scanned(scan, as_json=as_json)
        return
    if out is not None and not out.lower().endswith((".png", ".svg")):
        raise click.BadParameter("must end in .png or .svg", param_hint="--out")
    try:
        codes.check(form, room_id, limit)
    except PayloadError as error:
        raise click.BadParameter(error.message, param_hint="--room-id") from None
    config = read_list(source, token_file)
    text = codes.fit(config, form, room_id, limit)
    if form is None and text.format != codes.QR_FORMATS[0]:
        complain(f"only the {text.format} form fits: URLs, without priorities and server names")
    if out is not None:
        _save(text.text, out)
    if as_json:
        document = {"format": text.format, "bytes": text.size, "capacity": codes.CAPACITY}
        print(json_text({**document, "text": text.text, **({"out": out} if out else {})}))
    elif out is not None:
        say(f"{out}: {text.format} form, {text.size} bytes")
    elif sys.stdout.isatty():
        _draw(text.text)
    else:
        print(text.text)


def _save(text: str, out: str) -> None:
    drawing = codes.image(text, out.lower()[-3:])
    try:
        write_atomically(Path(out), drawing, sync=False, mode=0o666)
    except OSError as error:
        raise MopConfigError(f"{out} cannot be written: {error.strerror}") from None


def _draw(text: str) -> None:
    rows = codes.modules(text)
    rows.append([False] * len(rows[0]))  # a code has an odd number of rows
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        line = "".join(_BLOCKS[2 * up + down] for up, down in zip(upper, lower, strict=True))
        print(f"{_BLACK_ON_WHITE}{line}{_PLAIN}")
    width, height = len(rows[0]), len(rows) // 2
    columns, lines = shutil.get_terminal_size()
    if width > columns or height >= lines:
        size = f"{width} columns wide and {height} lines high"
        complain(f"the code is {size}: enlarge the terminal, or use --limit or --out FILE")


def _show_scanned(image: str, *, as_json: bool) -> None:
    try:
        data = codes.parse(codes.scan(image))
    except PayloadError as error:
        raise MopConfigError(f"{image}: the code holds no endpoints: {error}") from None
    lists = {kind.member: found for kind, found in data.kinds().items() if found is not None}
    others = data.extra if data.room_id is None else {"room_id": data.room_id, **data.extra}
    if as_json:
        print(json_text(others | {name: list(map(entry_of, lists[name])) for name in lists}))
        return
    for name, found in lists.items():
        for endpoint in found:
            print(f"{name} {endpoint.line}")
    for name, value in others.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        print(blanked(f"{name} {shown}"))
