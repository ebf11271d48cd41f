"""The diagnosis of `doctor`: facts, problems and warnings."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sark_cache.cli._exit import FailureError
from sark_cache.cli._settings import read_settings
from sark_cache.cli.doctor.backend_choice import choose
from sark_cache.cli.doctor.environment import Native, check_native, extras, versions
from sark_cache.cli.doctor.server_check import Examination, examine
from sark_cache.cli.flags.storage import RolloutAtStart, initial
from sark_cache.rollout.manager import INITIAL
from sark_cache.selection.selector import FEATURE, Choice, shortcoming

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings


@dataclass(slots=True)
class Diagnosis:
    """The results of all checks, in the order of the checks."""

    versions: dict[str, str] = field(default_factory=versions)
    extras: dict[str, dict[str, str | None]] = field(default_factory=extras)
    native: Native = field(default_factory=check_native)
    settings: "CacheSettings | None" = None
    redis: Examination | None = None
    rollouts: dict[str, RolloutAtStart] = field(default_factory=dict[str, RolloutAtStart])
    user: str | None = None
    choice: Choice | None = None
    problems: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])

    def document(self) -> dict[str, Any]:
        """Returns the diagnosis as a JSON object."""
        redis = None
        if self.redis is not None:
            redis = {**asdict(self.redis), "round_trip_ms": self.redis.round_trip_ms}
            for shown_above in ("rollouts", "problems", "warnings"):
                del redis[shown_above]
        backend = None
        if self.choice is not None:
            backend = {"user": self.user, **self.choice._asdict()}
        return {
            "ok": not self.problems,
            "problems": self.problems,
            "warnings": self.warnings,
            "versions": self.versions,
            "extras": self.extras,
            "native": asdict(self.native),
            "settings": None if self.settings is None else shown(self.settings),
            "rollouts": {feature: asdict(rollout) for feature, rollout in self.rollouts.items()},
            "redis": redis,
            "backend": backend,
        }


def diagnose(user: str | None, redis_url: str | None) -> Diagnosis:
    """Checks the installation, the settings, the server and the backend of a user.

    Args:
        user: The user whose backend is shown; None to show none.
        redis_url: The value of `--redis-url`.

    Raises:
        typer.BadParameter: As `read_settings`.
    """
    found = Diagnosis(user=user)
    try:
        found.settings, warnings = read_settings(redis_url)
    except FailureError as failure:
        found.problems.append(str(failure))
    else:
        found.warnings += warnings
        _check_settings(found, found.settings)
    if found.native.problem is not None:
        is_wanted = found.settings is None or found.settings.use_rust_cache
        (found.problems if is_wanted else found.warnings).append(found.native.problem)
    return found


def shown(settings: "CacheSettings") -> dict[str, Any]:
    """Returns the settings without the password of Redis."""
    return {**settings.model_dump(exclude={"redis_url"}), "redis_url": settings.redis_address}


def _check_settings(found: Diagnosis, settings: "CacheSettings") -> None:
    found.rollouts = {feature: initial(feature, settings) for feature in INITIAL}
    if settings.redis_url is not None:
        found.redis = examine(settings)
        found.rollouts |= found.redis.rollouts
        found.problems += found.redis.problems
        found.warnings += found.redis.warnings
    if found.user is not None:
        found.choice = choose(settings, found.user, found.redis)
    rollout = found.rollouts[FEATURE]
    percentage = None if rollout.source == "never set" else rollout.percentage
    if settings.enabled and percentage and not settings.use_rust_cache:
        found.warnings.append(
            f"{FEATURE} is rolled out to {percentage} % of users, but no user gets it: it is "
            "switched off (SARK_CACHE_USE_RUST_CACHE)"
        )
    falls_short = shortcoming(settings, percentage)
    if falls_short is not None:
        found.warnings.append(falls_short)
