"""Settings from the environment, checked when they are read: `SARK_CACHE_` and the setting's name.

Takes pydantic-settings (`pip install "sark-cache[settings]"`), which nothing else here imports.
"""

import difflib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias, final
from urllib.parse import urlsplit

try:
    from pydantic import Field, SecretStr, ValidationError, field_validator
    from pydantic_settings import (
        BaseSettings,
        InitSettingsSource,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
    )
except ModuleNotFoundError as _error:
    _message = f"{_error.name} is missing: get it with `pip install 'sark-cache[settings]'`"
    raise ModuleNotFoundError(_message, name=_error.name) from _error

from sark_cache._core import redis_urls as urls
from sark_cache._core.arguments import NAMESPACE, NAMESPACE_WORDS
from sark_cache.errors import SettingsError

logger: Final = logging.getLogger("sark_cache")

PREFIX = "SARK_CACHE_"
SARK_SWITCH = "RUST_ENABLED"
"""The variable that SARK has for `use_rust_cache`."""


@dataclass(frozen=True, slots=True)
class Takes:
    """What a setting can be, in words for who got it wrong."""

    words: str


Switch: TypeAlias = Annotated[bool, Takes("true or false")]
Count: TypeAlias = Annotated[int, Field(ge=1), Takes("an integer, 1 or more")]
Percentage: TypeAlias = Annotated[int, Field(ge=0, le=100), Takes("an integer from 0 to 100")]
Seconds: TypeAlias = Annotated[
    float, Field(gt=0, allow_inf_nan=False), Takes("a number of seconds, more than 0 and finite")
]

Namespace: TypeAlias = Annotated[
    str, Field(pattern=f"^{NAMESPACE.pattern}$"), Takes(NAMESPACE_WORDS)
]
ServerURL: TypeAlias = Annotated[
    SecretStr | None,
    Takes(
        "a URL: redis://user:password@host:6379/0, unix:///path/to/socket, "
        "redis+sentinel://host:26379/service/0 or redis+cluster://host:6379; with rediss for TLS, "
        "valkey for redis, valkeys for rediss; with %2F for a / in the password, and so on"
    ),
]


@final
class CacheSettings(BaseSettings):
    """What the caches of a process are made from.

    Each setting is read from the environment variable of its name in capitals after `SARK_CACHE_`:
    `SARK_CACHE_CACHE_TTL=60`. An empty variable counts as none. Given as an argument, a setting
    goes before its variable. Once made, settings do not change.

    `CacheSettings()` raises pydantic's `ValidationError`; `CacheSettings.from_environment()` says
    which variable is wrong, and finds misspelt ones.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        hide_input_in_errors=True,  # which may be a password
        frozen=True,
    )

    use_rust_cache: Switch = Field(
        default=True,
        description="Whether users may get the native cache at all. `RUST_ENABLED` is honoured, "
        "too; the prefixed name goes before it.",
    )
    enabled: Switch = Field(
        default=True, description="Whether caches serve and store; if not, every request misses."
    )
    cache_max_size: Count = Field(
        default=10_000, description="The most entries of the native cache."
    )
    cache_max_bytes: Annotated[int | None, Field(ge=1), Takes("an integer, 1 or more")] = Field(
        default=None, description="The most bytes of the native cache; none: any."
    )
    cache_eviction: Annotated[Literal["lru", "tiny_lfu"], Takes("lru or tiny_lfu")] = Field(
        default="lru", description="What leaves a full native cache first."
    )
    cache_ttl: Seconds = Field(
        default=300.0, description="How long an entry lives by default, in seconds."
    )
    use_optimized_ttl: Switch = Field(
        default=True, description="Whether a request's sensitivity shortens the time to live."
    )
    stale_while_revalidate: Switch = Field(
        default=True, description="Whether hits near their end are refreshed in the background."
    )
    redis_url: ServerURL = Field(
        default=None,
        description="The Redis or Valkey server: redis://, rediss://, unix://, redis+sentinel://, "
        "rediss+sentinel://, redis+cluster:// or rediss+cluster://, or the same with valkey and "
        "valkeys; none: no Redis. Never shown, since it may hold a password.",
    )
    redis_connect_timeout: Seconds = Field(
        default=0.05, description="How long connecting to Redis may take, in seconds."
    )
    redis_command_timeout: Seconds = Field(
        default=0.25, description="How long a command may take in Redis, in seconds."
    )
    namespace: Namespace = Field(
        default="",
        description="Stands before every key of this service in Redis. Services with different "
        "namespaces on one server share no decision and no revocation.",
    )
    redis_replicas: Annotated[int | None, Field(ge=0), Takes("an integer, 0 or more")] = Field(
        default=None,
        description="How many replicas have to confirm a revocation at least, on a cluster of each "
        "primary; none: those that the primary counts. Some servers do not let them be counted.",
    )
    cleanup_enabled: Switch = Field(
        default=True, description="Whether expired entries are removed in the background."
    )
    cleanup_interval: Seconds = Field(
        default=60.0, description="The pause between two cleanups, in seconds."
    )
    tiered: Annotated[bool | None, Takes("true or false")] = Field(
        default=None,
        description="`false` says that native caches may serve what another process revoked until "
        "its time to live is over, or that there is no other process: no warning is logged then.",
    )
    rust_cache_rollout_pct: Annotated[
        int | None, Field(ge=0, le=100), Takes("an integer from 0 to 100")
    ] = Field(
        default=None,
        description="The percentage of users that get the native cache until one is set with a "
        "feature flag, here or in Redis. None: everybody is served by Redis if there is one, else "
        "by the native cache.",
    )
    rust_opa_rollout_pct: Percentage = Field(
        default=0, description="The same for the feature rust_opa."
    )
    log_user_ids: Switch = Field(
        default=False, description="Whether user ids may be logged at INFO and above."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where settings come from, what goes before first: `RUST_ENABLED` is one more place."""
        switch = _environment().get(SARK_SWITCH)
        of_sark = InitSettingsSource(settings_cls, {"use_rust_cache": switch} if switch else {})
        return init_settings, env_settings, of_sark, dotenv_settings, file_secret_settings

    @field_validator("redis_url")
    @classmethod
    def _names_a_server(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            urls.check(url.get_secret_value())
        return url

    @property
    def redis_address(self) -> str | None:
        """The URL of the server without user, password and options, to be shown."""
        if self.redis_url is None:
            return None
        url = urlsplit(self.redis_url.get_secret_value())
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"

    @classmethod
    def from_environment(cls) -> Self:
        """The settings that the environment holds.

        Raises:
            SettingsError: Some of them are wrong: a line for each, with the variable, its value
                (but never that of `redis_url`) and what it takes. So is a variable that is one of
                these but for its spelling; any other one that begins with `SARK_CACHE_` may be a
                newer version's or somebody else's, and is logged at WARNING.
        """
        misspelt = list(_misspelt())
        try:
            settings = cls()
        except ValidationError as error:
            wrong = [_wrong_line(detail) for detail in error.errors(include_url=False)]
            raise _wrong_settings([*wrong, *misspelt]) from None
        if misspelt:
            raise _wrong_settings(misspelt)
        return settings


SETTINGS = CacheSettings.model_fields


def variables_of(setting: str) -> tuple[str, ...]:
    """The environment variables that a setting is read from, the one that goes before first."""
    prefixed = PREFIX + setting.upper()
    return (prefixed, SARK_SWITCH) if setting == "use_rust_cache" else (prefixed,)


def _environment() -> dict[str, str]:
    """The variables that are not empty, by their names in capitals."""
    return {name.upper(): value for name, value in tuple(os.environ.items()) if value}


def _wrong_settings(lines: list[str]) -> SettingsError:
    return SettingsError("\n  ".join(["wrong settings in the environment:", *lines]))


def _wrong_line(detail: Mapping[str, Any]) -> str:
    """What is wrong with one variable, and what it takes."""
    setting = str(detail["loc"][0])
    present = _environment()
    variable = next(name for name in variables_of(setting) if name in present)
    takes = next(each for each in SETTINGS[setting].metadata if isinstance(each, Takes))
    if setting == "redis_url":  # the value may hold a password; the reason shows no part of it
        reason = str(detail["msg"]).removeprefix("Value error, ")
        return f"{variable} is wrong: {reason}. It must be {takes.words}"
    return f"{variable}={str(detail['input'])[:50]!r} must be {takes.words}"


KUBERNETES = re.compile(
    r"_SERVICE_(HOST|PORT\w*)=|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=|_PORT=\w+://"
)
"""What Kubernetes puts into the environment of every pod for a service named `sark-cache…`."""


def _misspelt() -> Iterator[str]:
    """A line for each variable that can only be meant for another one; logs the other ones."""
    known = {variable for setting in SETTINGS for variable in variables_of(setting)}
    for variable, value in _environment().items():
        unknown = variable.startswith(PREFIX) and variable not in known
        if not unknown or KUBERNETES.search(f"{variable}={value}"):
            continue
        nearest, is_meant = _nearest(variable.removeprefix(PREFIX))
        if is_meant:
            yield f"{variable} is no setting: did you mean {nearest}?"
        else:
            logger.warning(
                "%s is no setting of sark-cache, and is ignored (the nearest one is %s)",
                variable,
                nearest,
            )


def _nearest(name: str) -> tuple[str, bool]:
    """The variable that looks most like this, and whether it must be what is meant.

    That is when it is nearly the same, or ends like this: `TTL` for `CACHE_TTL`.
    """
    names = [setting.upper() for setting in SETTINGS]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    meant = near or [setting for setting in names if setting.endswith(f"_{name}")]
    nearest = meant or difflib.get_close_matches(name, names, n=1, cutoff=0)
    return PREFIX + nearest[0], bool(meant)
