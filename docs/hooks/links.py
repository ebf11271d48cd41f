"""Links out of docs/, and files of the top folder that are pages of the site.

`<!-- include: CONTRIBUTING.md -->` is replaced by that file. Its links are relative to the top
folder, so they are rewritten. A link to a file that is not part of the site goes to the repository.
The target of each link has to exist, or the build fails.
"""

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.links")

INCLUDE = re.compile(r"^<!-- include: (\S+) -->$", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?![a-z+]+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns the page with its included files, and with links as they are on the site."""
    top = Path(config.config_file_path).parent
    docs = Path(config.docs_dir).relative_to(top).as_posix()

    def rewritten(text: str, folder: str) -> str:
        def target(match: re.Match[str]) -> str:
            path = posixpath.normpath(posixpath.join(folder, match[1]))
            anchor = match[2] or ""
            if path.startswith(f"{docs}/") and files.get_file_from_path(path[len(docs) + 1 :]):
                here = posixpath.dirname(posixpath.join(docs, page.file.src_uri))
                return posixpath.relpath(path, here) + anchor
            if not (top / path).exists():
                log.warning("%s has a link to %s, which is not there", page.file.src_uri, path)
            return f"{config.extra['repository']}/blob/main/{path}{anchor}"

        return LINK.sub(target, text)

    def included(match: re.Match[str]) -> str:
        return rewritten((top / match[1]).read_text(encoding="utf-8"), "")

    folder = posixpath.dirname(posixpath.join(docs, page.file.src_uri))
    own = rewritten(markdown, folder)
    return INCLUDE.sub(included, own)
