"""What a command goes by: settings from the environment, and `--redis-url` before them."""

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from sark_cache.backends._shared.defaults import URL_VARIABLE
from sark_cache.cli._exit import ExitCode, FailureError
from sark_cache.cli._output import complain
from sark_cache.errors import SettingsError

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

NO_REDIS = (
    f"no Redis is configured: set {URL_VARIABLE} or give --redis-url. Without one, every process "
    "has rollout percentages and decisions of its own, which no command reaches"
)


def read_settings(redis_url: str | None) -> "tuple[CacheSettings, list[str]]":
    """The settings, and what is to be said of them.

    Raises:
        FailureError: They are wrong, or pydantic-settings is not installed.
        typer.BadParameter: `redis_url` is no URL of a server.
    """
    try:
        from sark_cache.settings import CacheSettings  # noqa: PLC0415 - an extra
    except ImportError as error:
        message = f"settings cannot be read: {error}. Get it with: pip install 'sark-cache[cli]'"
        raise FailureError(ExitCode.MISSING, message) from None
    if redis_url is not None:
        _check(redis_url)
        _put(redis_url)
    with _heard() as warnings:
        try:
            settings = CacheSettings.from_environment()
        except SettingsError as error:
            raise FailureError(ExitCode.SETTINGS, str(error)) from None
    return settings, warnings


def settings_with_redis(redis_url: str | None) -> "CacheSettings":
    """The settings of a command that needs a server; what is to be said of them goes to stderr.

    Raises:
        FailureError: As `read_settings`, or they name no server.
        typer.BadParameter: `redis_url` is no URL of a server.
    """
    settings, warnings = read_settings(redis_url)
    for warning in warnings:
        complain("warning", warning)
    if settings.redis_url is None:
        raise FailureError(ExitCode.SETTINGS, NO_REDIS)
    return settings


def _check(url: str) -> None:
    from sark_cache._core import redis_urls as urls  # noqa: PLC0415 - where it is needed
    from sark_cache.settings import SETTINGS, Takes  # noqa: PLC0415 - an extra

    try:
        urls.check(url or "nothing")
    except ValueError as error:
        takes = next(each for each in SETTINGS["redis_url"].metadata if isinstance(each, Takes))
        message = f"{error}. It must be {takes.words}"
        raise typer.BadParameter(message, param_hint="--redis-url") from None


def _put(url: str) -> None:
    """Puts a URL where the settings look for it, whatever stood there."""
    for name in [name for name in os.environ if name.upper() == URL_VARIABLE]:
        del os.environ[name]
    os.environ[URL_VARIABLE] = url


@contextmanager
def _heard() -> Generator[list[str]]:
    """What is logged as a warning meanwhile."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    logger, ear = logging.getLogger("sark_cache"), Ear(logging.WARNING)
    logger.addHandler(ear)
    try:
        yield heard
    finally:
        logger.removeHandler(ear)
