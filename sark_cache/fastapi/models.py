"""The bodies of requests to the routes of the policy cache, and of their answers."""

from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from sark_cache._core import arguments, limits
from sark_cache.rollout.manager import MOST_NAME_BYTES, is_name

State: TypeAlias = Literal["ok", "unavailable"]


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

    status: State
    """`unavailable` if one of the backends is."""
    backends: dict[str, State]
    """Of each backend that this process uses: `native`, `redis`, `none`."""
    enabled: bool
    """True if the caches are enabled."""


class Metrics(BaseModel):
    """The metrics of this process."""

    cache: dict[str, int | float]
    """`get_metrics()` of all backends together."""
    cleanup: dict[str, int | float]
    """`get_metrics()` of the cleanup task."""
    rollouts: dict[str, int]
    """The percentage of users that each feature is rolled out to."""


class Invalidation(BaseModel):
    """A revocation of the decisions that match all given fields."""

    # A misspelt field would revoke more than was meant.
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    user_id: str | None = None
    action: str | None = None
    resource: str | None = None
    tags: Annotated[
        list[str] | None,
        Field(
            min_length=1,
            max_length=limits.MAX_REVOKED_TAGS,
            description="One of them is enough to match.",
        ),
    ] = None
    policy: Annotated[
        str | None, Field(description="The policy that decided, such as `app:may_read`.")
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
        """Returns what is given to match decisions by."""
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


class Rollouts(BaseModel):
    """The rollout percentage of each feature."""

    rollouts: dict[str, int]


class Failure(BaseModel):
    """An error."""

    detail: str
