"""The settings of a command: those of the environment, overridden by `--redis-url`."""

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
    f"no Redis is configured: set {URL_VARIABLE} or give --redis-url. Without Redis, each process "
    "keeps its own rollout percentages and decisions, and no command can reach them"
)


def read_settings(redis_url: str | None) -> "tuple[CacheSettings, list[str]]":
    """Returns the settings, and the warnings that were logged while they were read.

    Args:
        redis_url: The value of `--redis-url`. It takes precedence over the environment, and is
            written to it.

    Raises:
        FailureError: The settings are wrong, or pydantic-settings is not installed.
        typer.BadParameter: `redis_url` is not the URL of a server.
    """
    try:
        from sark_cache.settings import CacheSettings  # noqa: PLC0415 - an extra
    except ImportError as error:
        message = f"settings cannot be read: {error}. Install it: pip install 'sark-cache[cli]'"
        raise FailureError(ExitCode.MISSING, message) from None
    if redis_url is not None:
        _check(redis_url)
        _put(redis_url)
    with _collected_warnings() as warnings:
        try:
            settings = CacheSettings.from_environment()
        except SettingsError as error:
            raise FailureError(ExitCode.SETTINGS, str(error)) from None
    return settings, warnings


def settings_with_redis(redis_url: str | None) -> "CacheSettings":
    """Returns the settings of a command that needs Redis. Writes warnings about them to stderr.

    Raises:
        FailureError: As `read_settings`; or no Redis is configured.
        typer.BadParameter: As `read_settings`.
    """
    settings, warnings = read_settings(redis_url)
    for warning in warnings:
        complain("warning", warning)
    if settings.redis_url is None:
        raise FailureError(ExitCode.SETTINGS, NO_REDIS)
    return settings


def _check(url: str) -> None:
    from sark_cache._core import redis_urls as urls  # noqa: PLC0415 - only needed here
    from sark_cache.settings import SETTINGS, Takes  # noqa: PLC0415 - an extra

    try:
        urls.check(url or "nothing")
    except ValueError as error:
        takes = next(each for each in SETTINGS["redis_url"].metadata if isinstance(each, Takes))
        message = f"{error}. It must be {takes.words}"
        raise typer.BadParameter(message, param_hint="--redis-url") from None


def _put(url: str) -> None:
    """Sets the URL in the environment, where the settings read it. Replaces other spellings."""
    for name in [name for name in os.environ if name.upper() == URL_VARIABLE]:
        del os.environ[name]
    os.environ[URL_VARIABLE] = url


@contextmanager
def _collected_warnings() -> Generator[list[str]]:
    """Collects the warnings that the package logs while its block runs."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, collector = logging.getLogger("sark_cache"), Collector(logging.WARNING)
    logger.addHandler(collector)
    try:
        yield messages
    finally:
        logger.removeHandler(collector)
