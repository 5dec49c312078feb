"""File names, whose accents systems write in two ways: é as one character, or as e and an accent.

Annotations mostly have the first (Unicode NFC), zip files and folders of macOS the second (NFD).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def normalize(name: str) -> str:
    """The name in NFC; names that look the same are equal in it."""
    return unicodedata.normalize("NFC", name)


class Names:
    """A collection in which a name is found as it is, else in the other form of its accents."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        accented = sorted(name for name in self._names if not name.isascii())
        self._by_nfc = {normalize(name): name for name in accented}

    def find(self, name: str, *, exact: bool = False) -> str | None:
        """The name as it stands in the collection, or None; with `exact` the very same name."""
        if exact or name in self._names:
            return name if name in self._names else None
        return self._by_nfc.get(normalize(name))
