"""Translation pairs from the compiled gettext catalogues (`locale/<language>/LC_MESSAGES/*.mo`) of distributions."""

import re
import struct
from collections.abc import Iterator

from analysis.sources.packages.package import Package, Pair, stable_order

LANGUAGES = {
    "de": "German",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "it": "Italian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "sv": "Swedish",
    "tr": "Turkish",
}
CATALOGUE = re.compile(r"/([a-z]{2})/LC_MESSAGES/[^/]+\.mo$")
MAGIC = 0x950412DE
MIN_LENGTH = 6


def harvest(package: Package) -> Iterator[Pair]:
    """Prompt: an English message and a language. Completion: its translation, where it differs."""
    for path in package.paths:
        match = CATALOGUE.search(path)
        if match is None or match.group(1) not in LANGUAGES:
            continue
        language = LANGUAGES[match.group(1)]
        for message, translation in read_catalogue(package.read_bytes(path)):
            if len(message) < MIN_LENGTH or not translation or message == translation:
                continue
            # each pair in one direction only, or one would be the answer to the other
            if stable_order(message + language) < "8":
                yield Pair(f"to_{match.group(1)}", f"Translate into {language}: {message}", translation, path)
            else:
                yield Pair(f"from_{match.group(1)}", f"Translate from {language}: {translation}", message, path)


def read_catalogue(data: bytes) -> Iterator[tuple[str, str]]:
    """(message, translation) of a gettext MO file; plural forms and context are left out.

    Raises:
        ValueError: not a MO file.
    """
    order = next((sign for sign in "<>" if struct.unpack_from(f"{sign}I", data)[0] == MAGIC), None)
    if order is None:
        raise ValueError("expected a gettext MO file, got other bytes")
    count, originals, translations = struct.unpack_from(f"{order}3I", data, 8)
    for i in range(count):
        message, translation = (
            data[start : start + length].decode("utf-8", errors="replace")
            for length, start in (
                struct.unpack_from(f"{order}2I", data, table + 8 * i) for table in (originals, translations)
            )
        )
        if message and "\0" not in message:
            yield message.rsplit("\x04", 1)[-1], translation
