"""Hook of mkdocs: README.md is the first page, and links to files outside docs/ work on the site.

Pages link as GitHub reads them, relative to their place in the repository; whatever they link to is
on the site under its path in the repository, and docs/ at the root.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)")
START = "README.md"


def on_files(files: Any, config: Any) -> Any:
    """Add README.md, and every file that a page links to, and that these link to."""
    from mkdocs.structure.files import File

    unread = [START, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    while unread:
        source = unread.pop()
        if place(source) not in files.src_uris:
            files.append(File.generated(config, place(source), abs_src_path=str(ROOT / source)))
        if source.endswith(".md"):
            links = LINK.findall((ROOT / source).read_text(encoding="utf-8"))
            found = {posixpath.join(posixpath.dirname(source), link) for link in links}
            paths = {posixpath.normpath(path) for path in found if (ROOT / path).is_file()}
            unread += [path for path in paths if place(path) not in files.src_uris]
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with its links as they read on the site."""
    source = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    here = posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        return posixpath.relpath(place(path), here or ".") if (ROOT / path).is_file() else link[1]

    return LINK.sub(moved, markdown)


def place(source: str) -> str:
    """Where a file of the repository stands on the site."""
    return "index.md" if source == START else source.removeprefix("docs/")
