"""The bodies of the requests and responses of the policy cache's routes."""

from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from sark_cache._core import arguments, limits
from sark_cache.rollout.manager import MOST_NAME_BYTES, is_name

HealthState: TypeAlias = Literal["ok", "unavailable"]


def _pattern(pattern: str) -> str:
    arguments.check_pattern(pattern)
    return pattern


def _name(feature: str) -> str:
    if not is_name(feature):
        message = f"must be printable, and at most {MOST_NAME_BYTES} bytes long"
        raise ValueError(message)
    return feature


Pattern: TypeAlias = Annotated[str, AfterValidator(_pattern)]
Feature: TypeAlias = Annotated[str, AfterValidator(_name)]


class Health(BaseModel):
    """The health of the caches."""

    status: HealthState
    """`unavailable` if one of the backends is unavailable."""
    backends: dict[str, HealthState]
    """The state of each backend that this process uses: `native`, `redis`, `none`."""
    enabled: bool
    """True if the caches are enabled."""


class Metrics(BaseModel):
    """The metrics of this process."""

    cache: dict[str, int | float]
    """The result of `get_metrics()` for all backends together."""
    cleanup: dict[str, int | float]
    """The result of `get_metrics()` of the cleanup task."""
    rollouts: dict[str, int]
    """The percentage of users that get each feature."""


class Invalidation(BaseModel):
    """A revocation of the decisions that match every given field."""

    # If a misspelt field were ignored, the request would revoke too much.
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    user_id: str | None = None
    action: str | None = None
    resource: str | None = None
    tags: Annotated[
        list[str] | None,
        Field(
            min_length=1,
            max_length=limits.MAX_REVOKED_TAGS,
            description="The tags. A decision with one of them matches.",
        ),
    ] = None
    policy: Annotated[
        str | None, Field(description="The policy that made the decisions, such as `app:may_read`.")
    ] = None
    pattern: Annotated[
        Pattern | None,
        Field(description="A Redis glob over `policy:decision:user:action:resource:context`."),
    ] = None
    everything: Annotated[bool, Field(strict=True, description="Revokes all decisions.")] = False

    @model_validator(mode="after")
    def _says_what(self) -> Self:
        if [bool(self.matching()), self.pattern is not None, self.everything].count(True) != 1:
            message = (
                "give one or more of user_id, action, resource, tags and policy; or only pattern; "
                "or only everything: true"
            )
            raise ValueError(message)
        return self

    def matching(self) -> dict[str, Any]:
        """Returns the given fields that decisions have to match."""
        return self.model_dump(exclude={"pattern", "everything"}, exclude_none=True)


class Invalidated(BaseModel):
    """The number of entries removed, in all backends together."""

    invalidated: int


class Percentage(BaseModel):
    """A rollout percentage to set."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    percentage: Annotated[int, Field(strict=True, ge=0, le=100)]


class Rollout(BaseModel):
    """The rollout percentage of a feature."""

    feature: str
    percentage: int


class RolloutPercentages(BaseModel):
    """The rollout percentage of each feature."""

    rollouts: dict[str, int]


class Failure(BaseModel):
    """An error."""

    detail: str
