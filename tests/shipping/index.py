"""An index of packages on the loopback address, for `pip install --index-url`.

It serves a folder in both forms of the simple repository API, HTML (PEP 503) and JSON (PEP 691).
"""

import asyncio
import json
import re
import shutil
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from packaging.utils import parse_sdist_filename, parse_wheel_filename
from simple_repository_server.__main__ import create_app

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"


def add(folder: Path, file: Path) -> None:
    """Copies a wheel or sdist into the folder of an index."""
    parse = parse_wheel_filename if file.suffix == ".whl" else parse_sdist_filename
    project = folder / parse(file.name)[0]
    project.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, project)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves the packages of a folder and yields the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(create_app([str(folder)]), log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/simple/"
        finally:
            server.should_exit = True
            thread.join()


def listed(url: str, project: str) -> set[str]:
    """Returns the files of a project; fails unless both forms of its page list the same."""
    page = f"{url}{project}/"
    of_json = {file["filename"] for file in json.loads(_page(page, JSON))["files"]}
    of_html = set(re.findall(r"<a [^>]*>([^<]+)</a>", _page(page, HTML)))
    assert of_json == of_html, f"{page} lists {of_json} in JSON, {of_html} in HTML"
    return of_json


def _page(url: str, form: str) -> str:
    request = urllib.request.Request(url, headers={"Accept": form})  # noqa: S310 - our own
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=60) as answer:
        assert answer.headers.get_content_type() == form, f"{url} is not {form}"
        return answer.read().decode()
