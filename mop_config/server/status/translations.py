"""The texts of the dashboard and of ``mop-config status``, in English and in Chinese. Pure.

Each language has a file of texts by key, such as ``en.json``. A text that depends on a count has
two keys: the one that ends with ``.one`` is for a count of 1, ``.other`` for all other counts.
``zh.json`` also has the meaning of each problem code (``problem.…``), because the messages of
problems are English.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

#: The languages, each with its own name for itself; the first is the default.
LANGUAGES = {"en": "English", "zh": "中文"}
#: The languages as documents name them, BCP 47.
TAGS = {"en": "en", "zh": "zh-Hans"}


@cache
def load(language: str) -> dict[str, str]:
    """Return the texts of a language by key; the file is read once in a process.

    Args:
        language: A key of ``LANGUAGES``.
    """
    texts: dict[str, str] = json.loads(Path(__file__).with_name(f"{language}.json").read_bytes())
    return texts


class Texts:
    """The texts in one language.

    Args:
        language: A key of ``LANGUAGES``.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self.tag = TAGS[language]
        self._texts = load(language)

    def __call__(self, key: str, n: int | None = None, **values: Any) -> str:
        """Return a text with its values filled in.

        Args:
            key: A key of the language's file, without ``.one`` and ``.other``.
            n: The count that the text depends on; None if there is no count.
            values: The other values that the text names.
        """
        if n is not None:
            values["n"] = f"{n:,}"
        text = self._texts.get(f"{key}.one" if n == 1 else f"{key}.other")
        return (text or self._texts[key]).format(**values)

    def word(self, group: str, name: str) -> str:
        """Return the text for a word of the status document, or the word itself if it is new."""
        key = f"{group}.{name}"
        return self(key) if key in self._texts else name

    def problem(self, code: str) -> str | None:
        """Return what a problem code means; None in English, where the message says it."""
        return self._texts.get(f"problem.{code}")
