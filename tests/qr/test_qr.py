"""Tests of QR codes as images: two decoders read the text that was drawn."""

import io
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import zxingcpp
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mop_config import Endpoint, EndpointConfig, qr
from mop_config.errors import MissingExtra, MopConfigError, PayloadError, QrTooLong, QrUnreadable
from mop_config.model.endpoint import Kind, assemble, dumps, iter_endpoints, read_own
from mop_config.qr import CAPACITY

from ..client.test_qr import CONFIGS, GUIDE_CONFIG, ROOMS
from ..conftest import need_program

TEXTS = [
    qr.dumps(GUIDE_CONFIG, form, room) for form in qr.QR_FORMATS for room in ("会议室 é 😀", None)
]


def zbar(*images: Path) -> list[str]:
    """Return the text that zbar decodes from each image."""
    found = []
    for image in images:
        result = subprocess.run(
            [need_program("zbarimg"), "--raw", "-q", str(image)],
            capture_output=True,
            check=False,
        )
        found.append(result.stdout.decode().removesuffix("\n"))
    return found


def drawn(svg: bytes, scale: int = 4) -> Image.Image:
    """Rasterise one of our SVGs, which has strokes of one module's height on white."""
    root = ElementTree.fromstring(svg)
    assert "width" not in root.attrib
    width = int(root.attrib["viewBox"].split()[2])
    picture = Image.new("L", (width, width), 255)
    *_, path = root.iter("{http://www.w3.org/2000/svg}path")
    assert path.attrib["stroke"] == "#000"
    x, y = 0.0, 0.0
    for command, first, second in re.findall(
        r"([Mmh])(-?[\d.]+)(?: (-?[\d.]+))?", path.attrib["d"]
    ):
        if command == "h":
            for module in range(int(first)):
                picture.putpixel((int(x) + module, int(y)), 0)
            x += float(first)
        elif command == "M":
            x, y = float(first), float(second)
        else:
            x, y = x + float(first), y + float(second)
    return picture.resize((width * scale, width * scale), Image.Resampling.NEAREST)


def in_png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def a_list(number: int) -> EndpointConfig:
    """Return a list with a number of endpoints of each kind, the best last."""
    return EndpointConfig(
        tuple(assemble(f"https://h{i}.example/api/v1", number - i, None) for i in range(number)),
        tuple(assemble(f"https://h{i}.example", number - i, None) for i in range(number)),
    )


class TestDecoders:
    """zxing-cpp and zbar decode the text that was drawn."""

    @settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(CONFIGS, ROOMS, st.sampled_from(qr.QR_FORMATS))
    def test_any_list_and_any_room(
        self, tmp_path: Path, config: EndpointConfig, room: str | None, form: str
    ) -> None:
        """PNG and SVG work in every form, with room ids in any alphabet."""
        text = qr.dumps(config, form, room)
        images = [qr.image(text, "png"), in_png(drawn(qr.image(text, "svg")))]
        paths = [tmp_path / f"{number}.png" for number in range(2)]
        for path, image in zip(paths, images, strict=True):
            path.write_bytes(image)
        assert [qr.scan(path) for path in paths] == [text, text]
        assert zbar(*paths) == [text, text]
        assert qr.parse(qr.scan(images[0])).room_id == room

    @settings(max_examples=50)
    @given(st.text(min_size=1, max_size=300))
    @example("\u0bc20")  # its UTF-8 is Shift JIS, too
    def test_any_text(self, text: str) -> None:
        """Any other text, such as a signed list, is drawn unchanged."""
        assert qr.scan(qr.image(text, "png")) == text

    def test_a_browser_draws_the_svg(self, tmp_path: Path) -> None:
        """The SVG works under the strictest policy, and fills the window."""
        from playwright.sync_api import sync_playwright

        chromium = need_program("chromium")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox"], headless=True
            )
            page = browser.new_page(viewport={"width": 800, "height": 800})

            def serve(route: Any) -> None:
                svg = qr.image(TEXTS[int(route.request.url[-1])], "svg")
                policy = {"Content-Security-Policy": "default-src 'none'"}
                route.fulfill(body=svg, content_type="image/svg+xml", headers=policy)

            page.route("**/*", serve)
            paths = []
            for number in range(0, len(TEXTS), 2):
                page.goto(f"http://qr.example/{number}")
                paths.append(tmp_path / f"{number}.png")
                page.screenshot(path=str(paths[-1]))
            browser.close()
        assert [qr.scan(path) for path in paths] == TEXTS[::2]
        assert zbar(*paths) == TEXTS[::2]


class TestImage:
    """The properties of the image."""

    @pytest.mark.parametrize("text", TEXTS)
    def test_a_quiet_zone_of_four_modules(self, text: str) -> None:
        """PNG and SVG have a white border of four modules on each side."""
        for picture in (
            Image.open(io.BytesIO(qr.image(text, "png"))).convert("L"),
            drawn(qr.image(text, "svg")),
        ):
            left, top, right, bottom = Image.eval(picture, lambda v: 255 - v).getbbox() or (
                0,
                0,
                0,
                0,
            )
            modules = len(qr_matrix(text))
            module = picture.width / modules
            assert (left, top) == (4 * module, 4 * module)
            assert (right, bottom) == (picture.width - 4 * module, picture.height - 4 * module)
            assert set(picture.tobytes()) == {0, 255}

    def test_the_svg_says_what_it_is(self) -> None:
        """The title is for screen readers, and is escaped."""
        root = ElementTree.fromstring(qr.image("x", "svg", title="<script>&"))
        assert root[0].tag.endswith("title")
        assert root[0].text == "<script>&"

    def test_the_best_correction_that_the_smallest_code_has_room_for(self) -> None:
        """Room that the text leaves in the smallest code is used for error correction."""
        levels = []
        for size in (7, 11, 14, 17, 300, 367, 2953):
            picture = Image.open(io.BytesIO(qr.image("a" * size, "png"))).convert("L")
            code: Any = zxingcpp.read_barcodes(picture)[0]
            assert code.text == "a" * size
            levels.append(code.ec_level)
        assert levels == ["H", "Q", "M", "L", "L", "L", "L"]

    def test_a_list_is_chosen_for(self) -> None:
        """``image`` chooses the text in the same way as ``fit``."""
        image = qr.image(a_list(100), "png", format="full", room_id="r", limit=2)
        assert qr.scan(image) == qr.fit(a_list(100), "full", "r", 2).text

    def test_what_fits_and_what_does_not(self) -> None:
        """A text of the capacity is drawn; the error of a longer one names both sizes."""
        accented = "é" * (CAPACITY // 2)
        assert qr.scan(qr.image(accented, "png")) == accented
        for text in ("a" * 2954, accented + "a"):
            with pytest.raises(QrTooLong) as error:
                qr.image(text)
            assert (error.value.size, error.value.capacity) == (len(text.encode()), 2952)
            assert str(len(text.encode())) in str(error.value)

    def test_a_kind_that_is_none(self) -> None:
        """The error names the kinds of image."""
        with pytest.raises(PayloadError, match="svg, png"):
            qr.image("x", "gif")

    def test_text_that_is_none(self) -> None:
        """Half a surrogate pair has no UTF-8 form."""
        with pytest.raises(PayloadError, match="UTF-8"):
            qr.image("\ud800")
        with pytest.raises(PayloadError, match="room_id"):
            qr.fit(GUIDE_CONFIG, room_id="\ud800")


def qr_matrix(text: str) -> list[str]:
    """The rows of the code that ``image`` draws, by its SVG."""
    width = int(ElementTree.fromstring(qr.image(text, "svg")).attrib["viewBox"].split()[2])
    return [""] * width


class TestFit:
    """The choice of the text."""

    def test_the_first_form_that_fits(self) -> None:
        """The order is: everything, URLs only, the best of each kind."""
        assert [qr.fit(a_list(n)).format for n in (20, 50, 100)] == ["full", "list", "single"]
        assert qr.parse(qr.fit(a_list(100)).text).api_endpoints == (
            Endpoint("https://h99.example/api/v1", 0),
        )

    def test_a_limit_takes_the_best_of_each_kind(self) -> None:
        """The chosen endpoints keep the order of the list."""
        data = qr.parse(qr.fit(a_list(3000), limit=2).text)
        for endpoints in (data.api_endpoints, data.socketio_endpoints):
            assert endpoints is not None
            assert [(e.url[:13], e.priority) for e in endpoints] == [
                ("https://h2998", 2),
                ("https://h2999", 1),
            ]

    def test_of_equals_the_first_is_better(self) -> None:
        """Of equal priorities, the first endpoints are chosen."""
        equals = EndpointConfig(tuple(Endpoint(f"https://{c}.example", 7) for c in "zab"))
        chosen = qr.parse(qr.fit(equals, "list", limit=2).text).api_endpoints or ()
        assert [e.url for e in chosen] == ["https://z.example", "https://a.example"]

    @settings(max_examples=60)
    @given(CONFIGS, ROOMS, st.sampled_from(["full", "list"]))
    def test_the_size_is_that_of_the_text(
        self, config: EndpointConfig, room: str | None, form: str
    ) -> None:
        """The size in the error is exact."""
        size = len(qr.dumps(config, form, room).encode())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(qr, "CAPACITY", size - 1)
            with pytest.raises(QrTooLong) as refused:
                qr.fit(config, form, room)
        assert refused.value.size == size

    @settings(max_examples=40)
    @given(CONFIGS | st.just(EndpointConfig()))
    def test_a_body_is_read_entry_by_entry(self, config: EndpointConfig) -> None:
        """The iterator yields every endpoint of each kind, in the order of the list."""
        body = dumps(config)
        assert {kind: tuple(iter_endpoints(body, kind)) for kind in Kind} == config.kinds()
        assert read_own(body) == config

    @pytest.mark.parametrize(
        ("number", "form", "room"),
        [(60, "full", None), (60, "list", "会" * 128), (3000, "full", '\n"\x00')],
    )
    def test_it_says_what_would_fit(self, number: int, form: str, room: str | None) -> None:
        """The limits in the error are the largest that fit."""
        config = a_list(number)
        with pytest.raises(QrTooLong) as refused:
            qr.fit(config, form, room)
        error = refused.value
        assert error.size == len(qr.dumps(config, form, room).encode())
        assert str(error.size) in str(error)
        assert error.fits[-1] == ("single", None)
        for fitting, limit in error.fits:
            text = qr.fit(config, fitting, room, limit)
            assert qr.scan(qr.image(text.text, "png")) == text.text
            if limit is not None:
                with pytest.raises(QrTooLong):
                    qr.fit(config, fitting, room, limit + 1)

    def test_fitting_is_exact(self) -> None:
        """A text of the exact capacity is drawn, and one byte more is refused."""
        for room in ("r", "é"):
            bare = qr.fit(self.long(1), "list", room).size
            fitting = qr.fit(self.long(1 + CAPACITY - bare), "list", room)
            assert fitting.size == CAPACITY
            assert qr.scan(qr.image(fitting.text, "png")) == fitting.text
            with pytest.raises(QrTooLong):
                qr.fit(self.long(2 + CAPACITY - bare), "list", room)

    @staticmethod
    def long(size: int) -> EndpointConfig:
        half = size // 2
        urls = (f"https://h.example/{'a' * n}" for n in (half, size - half))
        return EndpointConfig(tuple(assemble(url, 0, None) for url in urls))

    def test_where_nothing_fits(self) -> None:
        """The error says that no form fits."""
        with pytest.raises(QrTooLong, match=r"the single form .* no form fits"):
            qr.fit(self.long(8000))

    @pytest.mark.parametrize(
        ("parameter", "arguments"),
        [
            ("format", {"format": "best"}),
            ("room_id", {"room_id": ""}),
            ("room_id", {"room_id": "r" * 129}),
            ("limit", {"limit": 0}),
            ("limit", {"limit": 1001}),
            ("limit", {"limit": True}),
        ],
    )
    def test_a_bad_parameter(self, parameter: str, arguments: dict[str, Any]) -> None:
        """The error names the parameter and the allowed values."""
        with pytest.raises(PayloadError, match=f"^{parameter}: must be"):
            qr.fit(GUIDE_CONFIG, **arguments)

    def test_no_endpoints(self) -> None:
        """An empty list is an error."""
        with pytest.raises(PayloadError, match="no endpoint to put"):
            qr.fit(EndpointConfig())

    def test_a_long_list(self) -> None:
        """The best of a long list are chosen, and the error has the size of the whole list."""
        config = a_list(30_000)
        assert qr.fit(config).format == "single"
        with pytest.raises(QrTooLong, match=f"takes {len(dumps(config))} bytes"):
            qr.fit(config, "full")


class TestScan:
    """Decoding of images."""

    @pytest.mark.parametrize("suffix", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
    def test_every_kind_of_image(self, tmp_path: Path, suffix: str) -> None:
        """An image may be given by path or by bytes."""
        path = tmp_path / f"code.{suffix.lower()}"
        Image.open(io.BytesIO(qr.image(TEXTS[1], "png"))).convert("RGB").save(path, suffix)
        assert qr.scan(path) == qr.scan(str(path)) == qr.scan(path.read_bytes()) == TEXTS[1]

    def test_turned_small_and_transparent(self) -> None:
        """Rotated, inverted and transparent images are decoded."""
        code = Image.open(io.BytesIO(qr.image(TEXTS[0], "png"))).convert("L")
        photo = Image.new("L", (1600, 1200), 200)
        photo.paste(code.rotate(20, expand=True, fillcolor=200), (300, 200))
        clear = Image.new("RGBA", code.size, (0, 0, 0, 0))
        clear.paste((0, 0, 0, 255), mask=Image.eval(code, lambda value: 255 - value))
        for picture in (photo, clear, Image.eval(code, lambda value: 255 - value)):
            assert qr.scan(in_png(picture)) == TEXTS[0]

    def test_a_code_that_says_utf8_by_nothing(self) -> None:
        """A code without a declared encoding is decoded as UTF-8."""
        import segno

        out = io.BytesIO()
        segno.make(TEXTS[1], encoding="utf-8", micro=False).save(out, kind="png", scale=4)
        assert qr.scan(out.getvalue()) == TEXTS[1]

    def test_no_code_and_several(self) -> None:
        """No code and several codes are errors; the same code twice is not."""
        one, other = (
            Image.open(io.BytesIO(qr.image(text, "png"))).convert("L") for text in ("one", "other")
        )
        sheet = Image.new("L", (2 * one.width, one.height), 255)
        with pytest.raises(QrUnreadable, match="no QR code"):
            qr.scan(in_png(sheet))
        sheet.paste(one, (0, 0))
        sheet.paste(one, (one.width, 0))
        assert qr.scan(in_png(sheet)) == "one"
        sheet.paste(other, (one.width, 0))
        with pytest.raises(QrUnreadable, match="2 QR codes"):
            qr.scan(in_png(sheet))

    def test_what_is_no_image(self, tmp_path: Path) -> None:
        """The error is one line; formats that run programs are not decoded."""
        whole = qr.image("x", "png")
        for data in (
            b"",
            b"\0" * 99,
            whole[: len(whole) // 2],
            qr.image("x"),
            b"%!PS-Adobe-3.0 EPSF",
        ):
            with pytest.raises(QrUnreadable, match=r"^the image: is not a PNG, .* or is damaged"):
                qr.scan(data)
        for path in (tmp_path, tmp_path / "none.png", tmp_path / "\0"):
            with pytest.raises(QrUnreadable) as error:
                qr.scan(path)
            assert str(error.value).startswith(f"{path}: ")

    @settings(max_examples=40)
    @given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
    def test_no_broken_image_does_harm(self, at: int, junk: bytes) -> None:
        """A damaged image is decoded, or is refused with ``QrUnreadable``."""
        data = bytearray(qr.image("x", "png"))
        data[at : at + len(junk)] = junk
        try:
            qr.scan(bytes(data))
        except MopConfigError as error:
            assert isinstance(error, QrUnreadable)

    @pytest.mark.parametrize("side", [4001, 7000, 7100, 14_000])
    def test_one_that_would_fill_the_memory(self, side: int) -> None:
        """An image with too many pixels is refused by its header, the largest by Pillow itself."""
        bomb = in_png(Image.new("1", (side, side), 1))
        assert len(bomb) < 100_000
        began = time.process_time()
        with pytest.raises(QrUnreadable, match=r"more than 16000000 pixels|DecompressionBombError"):
            qr.scan(bomb)
        assert time.process_time() - began < 1

    def test_a_large_photograph(self) -> None:
        """A large JPEG is decoded at a fraction of its size."""
        code = Image.open(io.BytesIO(qr.image(TEXTS[0], "png"))).convert("L")
        photo = Image.new("L", (12_000, 4_000), 200)
        photo.paste(code.resize((2000, 2000)), (300, 200))
        out = io.BytesIO()
        photo.save(out, "JPEG")
        assert qr.scan(out.getvalue()) == TEXTS[0]

    def test_the_largest_takes_little_memory(self, tmp_path: Path) -> None:
        """The memory for the largest transparent image is bounded."""
        code = Image.open(io.BytesIO(qr.image("hello", "png"))).convert("RGBA")
        picture = Image.new("RGBA", (4000, 4000), (0, 0, 0, 0))
        picture.paste(code, (100, 100))
        path = tmp_path / "large.png"
        picture.save(path)
        script = (
            "import resource, sys, PIL.Image, zxingcpp, mop_config.qr as qr\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "print(qr.scan(sys.argv[1]))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
        )
        command = [sys.executable, "-c", script, str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        text, kibibytes = done.stdout.split()
        assert text == "hello"
        assert int(kibibytes) < 250 * 1024

    def test_a_file_that_is_too_large(self, tmp_path: Path) -> None:
        """A file beyond the limit is not read to its end."""
        path = tmp_path / "large.png"
        with path.open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(QrUnreadable, match="larger than 32 MiB"):
            qr.scan(path)

    @pytest.mark.parametrize("missing", ["zxingcpp", "PIL"])
    def test_without_its_extra(self, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error names the extra to install."""
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(MissingExtra, match=r"pip install 'mop-config\[qr\]'"):
            qr.scan(b"")


def test_nothing_is_imported_before_it_is_used() -> None:
    """A client that parses QR texts imports no encoder and no decoder."""
    code = (
        "import sys, mop_config.client, mop_config.qr as qr\n"
        'qr.parse(\'{"api_url": "https://a.example"}\')\n'
        "sys.exit(bool({'segno', 'PIL', 'zxingcpp'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
