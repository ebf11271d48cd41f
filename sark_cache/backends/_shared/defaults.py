"""The settings in force in this process, for what is made without saying from what.

Those that an app was started with, or else those of the environment. Without pydantic-settings
there are none, and only the variable of the server's URL is read.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

URL_VARIABLE = "SARK_CACHE_REDIS_URL"

_in_force: "CacheSettings | None" = None


def put_in_force(settings: "CacheSettings") -> None:
    """Makes these the settings in force."""
    global _in_force  # noqa: PLW0603 - one per process is what this is for
    _in_force = settings


def take_out_of_force(settings: "CacheSettings") -> None:
    """Leaves it to the environment again, if these are the settings in force."""
    global _in_force  # noqa: PLW0603
    if _in_force is settings:
        _in_force = None


def settings_in_force() -> "CacheSettings | None":
    """Returns the settings in force; None: pydantic-settings is not installed.

    Raises:
        SettingsError: The environment holds wrong settings; the message names the variables.
    """
    if _in_force is not None:
        return _in_force
    try:
        from sark_cache.settings import CacheSettings  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return None
    return CacheSettings.from_environment()


def url_in_environment() -> str | None:
    """Returns the URL of the server where there are no settings to be read."""
    return os.environ.get(URL_VARIABLE) or None
