"""The default settings of this process, for caches that are created without settings.

They are the settings that an app was started with, or otherwise those of the environment. Without
pydantic-settings there are no settings, and only the variable with the server's URL is read.
"""

import os
from typing import TYPE_CHECKING, Final

from sark_cache._core.poller import lock_across_forks

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

URL_VARIABLE = "SARK_CACHE_REDIS_URL"

_in_force: "CacheSettings | None" = None
_reading: Final = lock_across_forks()
"""Held while settings are read. A child that is forked while another thread imports a module, or
creates pydantic's validators, would wait forever for what that thread holds."""


def put_in_force(settings: "CacheSettings") -> None:
    """Sets the settings in force."""
    global _in_force  # noqa: PLW0603 - there is one per process
    _in_force = settings


def take_out_of_force(settings: "CacheSettings") -> None:
    """Returns to the settings of the environment, if `settings` are in force."""
    global _in_force  # noqa: PLW0603
    if _in_force is settings:
        _in_force = None


def settings_in_force() -> "CacheSettings | None":
    """Returns the settings in force. None: pydantic-settings is not installed.

    Raises:
        SettingsError: The environment holds wrong settings. The message names the variables.
    """
    if _in_force is not None:
        return _in_force
    with _reading:
        try:
            from sark_cache.settings import CacheSettings  # noqa: PLC0415 - an extra
        except ModuleNotFoundError:
            return None
        return CacheSettings.from_environment()


def url_in_environment() -> str | None:
    """Returns the server's URL from the environment, without pydantic-settings."""
    return os.environ.get(URL_VARIABLE) or None
