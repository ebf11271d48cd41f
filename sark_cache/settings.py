"""Settings from environment variables, named `SARK_CACHE_` plus the setting's name in capitals.

This module requires pydantic-settings (`pip install "sark-cache[settings]"`). The rest of the
package does not.
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
from sark_cache._core.arguments import (
    DEFAULT_MAX_STALENESS,
    MAX_MAX_STALENESS,
    MAX_REPLICAS,
    MAX_STALENESS_WORDS,
    MIN_MAX_STALENESS,
    NAMESPACE,
    NAMESPACE_WORDS,
)
from sark_cache._core.limits import (
    DEFAULT_MAX_SIZE,
    DEFAULT_TTL_SECONDS,
    MAX_CAPACITY,
    MIN_MAX_BYTES,
)
from sark_cache.errors import SettingsError

logger: Final = logging.getLogger("sark_cache")

PREFIX = "SARK_CACHE_"
SARK_SWITCH = "RUST_ENABLED"
"""SARK's variable for `use_rust_cache`."""


@dataclass(frozen=True, slots=True)
class Takes:
    """A description of the values that a setting accepts, for error messages."""

    words: str


Boolean: TypeAlias = Annotated[bool, Takes("true or false")]
Count: TypeAlias = Annotated[int, Field(ge=1, le=MAX_CAPACITY), Takes("an integer from 1 to 2**62")]
PercentOfUsers: TypeAlias = Annotated[int, Field(ge=0, le=100), Takes("an integer from 0 to 100")]
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
    """The settings of the caches of a process.

    Each setting is read from an environment variable: `SARK_CACHE_` followed by the name of the
    setting in capitals, such as `SARK_CACHE_CACHE_TTL=60`. An empty variable is ignored. An
    argument takes precedence over the variable. Settings cannot be changed.

    If a setting is wrong, `CacheSettings()` raises pydantic's `ValidationError`.
    `CacheSettings.from_environment()` raises a `SettingsError` that names the wrong variables,
    including misspelt ones.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        hide_input_in_errors=True,  # the input may be a password
        frozen=True,
    )

    use_rust_cache: Boolean = Field(
        default=True,
        description="If false, no user gets the native cache. `RUST_ENABLED` is also read; the "
        "prefixed name takes precedence.",
    )
    enabled: Boolean = Field(
        default=True,
        description="If false, caches neither serve nor store, and every request is a miss.",
    )
    cache_max_size: Count = Field(
        default=DEFAULT_MAX_SIZE, description="The maximum number of entries of the native cache."
    )
    cache_max_bytes: Annotated[
        int | None,
        Field(ge=MIN_MAX_BYTES, le=MAX_CAPACITY),
        Takes(f"an integer from {MIN_MAX_BYTES} to 2**62"),
    ] = Field(
        default=None, description="The maximum size of the native cache in bytes; none: no limit."
    )
    cache_eviction: Annotated[Literal["lru", "tiny_lfu"], Takes("lru or tiny_lfu")] = Field(
        default="lru",
        description="The entry that a full native cache evicts first. `lru`: the least recently "
        "requested one. `tiny_lfu`: one that is requested less often than others.",
    )
    cache_ttl: Seconds = Field(
        default=float(DEFAULT_TTL_SECONDS),
        description="The default time to live of an entry, in seconds.",
    )
    use_optimized_ttl: Boolean = Field(
        default=True, description="If true, a request's sensitivity limits the time to live."
    )
    stale_while_revalidate: Boolean = Field(
        default=True, description="If true, hits on stale entries refresh them in the background."
    )
    redis_url: ServerURL = Field(
        default=None,
        description="The Redis or Valkey server: redis://, rediss://, unix://, redis+sentinel://, "
        "rediss+sentinel://, redis+cluster:// or rediss+cluster://, or the same with valkey and "
        "valkeys; none: no Redis. It is never shown, because it may contain a password.",
    )
    redis_connect_timeout: Seconds = Field(
        default=0.05, description="The time-out for connecting to Redis, in seconds."
    )
    redis_command_timeout: Seconds = Field(
        default=0.25, description="The time-out for a Redis command, in seconds."
    )
    namespace: Namespace = Field(
        default="",
        description="The prefix of every key of this service in Redis. Services with different "
        "namespaces on one server share neither decisions nor revocations.",
    )
    redis_replicas: Annotated[
        int | None, Field(ge=0, le=MAX_REPLICAS), Takes(f"an integer from 0 to {MAX_REPLICAS}")
    ] = Field(
        default=None,
        description="The minimum number of replicas that must confirm a revocation, on a cluster "
        "for each primary. None: the number that the primary reports. Some servers do not report "
        "it.",
    )
    max_staleness: Annotated[
        float,
        Field(ge=MIN_MAX_STALENESS, le=MAX_MAX_STALENESS),
        Takes(MAX_STALENESS_WORDS),
    ] = Field(
        default=DEFAULT_MAX_STALENESS,
        description="The maximum time, in seconds, for which a process that cannot reach Redis may "
        "serve a revoked decision from its own memory. A revocation waits up to 1.1 times as long "
        "for such a process.",
    )
    settle: Boolean = Field(
        default=True,
        description="If true, a revocation returns when no process serves the revoked decisions "
        "any more. If false, it returns when Redis has confirmed it.",
    )
    trust_server: Boolean = Field(
        default=False,
        description="If true, native caches follow Redis even if a failover may take less time "
        "than `SARK_CACHE_MAX_STALENESS` plus 3 seconds, or if that time cannot be read. A process "
        "that is cut off together with the old primary can then serve a revoked decision for some "
        "seconds.",
    )
    cleanup_enabled: Boolean = Field(
        default=True, description="If true, expired entries are removed in the background."
    )
    cleanup_interval: Seconds = Field(
        default=60.0, description="The pause between two cleanups, in seconds."
    )
    tiered: Annotated[bool | None, Takes("true or false")] = Field(
        default=None,
        description="If false, native caches do not share revocations through Redis, and no "
        "warning is logged if there are several processes. Then a native cache serves a decision "
        "that another process has revoked, until the time to live is over. None: native caches "
        "share revocations if a Redis URL is set.",
    )
    rust_cache_rollout_pct: Annotated[
        int | None, Field(ge=0, le=100), Takes("an integer from 0 to 100")
    ] = Field(
        default=None,
        description="The percentage of users that get the native cache, until another one is set "
        "in this process or in Redis. None: all users get it.",
    )
    rust_opa_rollout_pct: PercentOfUsers = Field(
        default=0, description="The percentage of users that get the feature rust_opa."
    )
    log_user_ids: Boolean = Field(
        default=False, description="If true, user ids may be logged at INFO and above."
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
        """Returns the sources in order of precedence, and adds the variable `RUST_ENABLED`."""
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
        """The URL of the server without user, password and options. It may be shown."""
        if self.redis_url is None:
            return None
        url = urlsplit(self.redis_url.get_secret_value())
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"

    @classmethod
    def from_environment(cls) -> Self:
        """Returns the settings of the environment.

        An unknown variable that begins with `SARK_CACHE_` and resembles no setting is logged at
        WARNING: it may belong to a newer version or to another program.

        Raises:
            SettingsError: Some variables are wrong or misspelt. The message has a line for each,
                with the variable, its value (but never that of `redis_url`), and the accepted
                values.
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
    """Returns the environment variables of a setting, in order of precedence."""
    prefixed = PREFIX + setting.upper()
    return (prefixed, SARK_SWITCH) if setting == "use_rust_cache" else (prefixed,)


def _environment() -> dict[str, str]:
    """Returns the variables that are not empty, by their names in capitals."""
    return {name.upper(): value for name, value in tuple(os.environ.items()) if value}


def _wrong_settings(lines: list[str]) -> SettingsError:
    return SettingsError("\n  ".join(["wrong settings in the environment:", *lines]))


def _wrong_line(detail: Mapping[str, Any]) -> str:
    """Returns a line of the error message: the wrong variable, and the accepted values."""
    setting = str(detail["loc"][0])
    present = _environment()
    variable = next(name for name in variables_of(setting) if name in present)
    takes = next(each for each in SETTINGS[setting].metadata if isinstance(each, Takes))
    if setting == "redis_url":  # the value may contain a password; the reason shows no part of it
        reason = str(detail["msg"]).removeprefix("Value error, ")
        return f"{variable} is wrong: {reason}. It must be {takes.words}"
    return f"{variable}={str(detail['input'])[:50]!r} must be {takes.words}"


KUBERNETES = re.compile(
    r"_SERVICE_(HOST|PORT\w*)=|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=|_PORT=\w+://"
)
"""The variables that Kubernetes sets in every pod for a service named `sark-cache…`."""


def _misspelt() -> Iterator[str]:
    """Yields a line for each misspelt variable. Logs the other unknown variables."""
    known = {variable for setting in SETTINGS for variable in variables_of(setting)}
    for variable, value in _environment().items():
        unknown = variable.startswith(PREFIX) and variable not in known
        if not unknown or KUBERNETES.search(f"{variable}={value}"):
            continue
        nearest, is_meant = _nearest(variable.removeprefix(PREFIX))
        if is_meant:
            yield f"{variable} is not a setting: did you mean {nearest}?"
        else:
            logger.warning(
                "%s is not a setting of sark-cache and is ignored (the nearest one is %s)",
                variable,
                nearest,
            )


def _nearest(name: str) -> tuple[str, bool]:
    """Returns the variable most similar to an unknown one, and whether it is certainly meant.

    It is if the two are nearly the same, or if it ends with the unknown name, such as `CACHE_TTL`
    for `TTL`.
    """
    names = [setting.upper() for setting in SETTINGS]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    meant = near or [setting for setting in names if setting.endswith(f"_{name}")]
    nearest = meant or difflib.get_close_matches(name, names, n=1, cutoff=0)
    return PREFIX + nearest[0], bool(meant)
