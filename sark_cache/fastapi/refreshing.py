"""Refreshes: each policy's decisions are evaluated again, only by the policy's own evaluator."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeGuard

from sark_cache.evaluation.constants import read_policy
from sark_cache.evaluation.evaluators import AsyncEvaluator, Engine, EvaluatorResult, timed
from sark_cache.evaluation.policies import policy_of
from sark_cache.fastapi.evaluators import callable_evaluator
from sark_cache.selection.selected import SelectedPolicyCache
from sark_cache.types import Context, RevalidateCallback

Refresher: TypeAlias = Callable[
    [str, str, str, Context | None], Awaitable[EvaluatorResult | None] | EvaluatorResult | None
]
"""An evaluator that may return None: the decision is unchanged."""

Revalidate: TypeAlias = Refresher | Engine | Mapping[str, Refresher | Engine]


def evaluators_by_policy(revalidate: Revalidate) -> dict[str, AsyncEvaluator]:
    """Returns the evaluator of each policy.

    Raises:
        TypeError, ValueError: An evaluator cannot be used, or its policy has no name.
    """
    if _is_by_name(revalidate):
        return {read_policy(name): callable_evaluator(each) for name, each in revalidate.items()}
    return {policy_of(revalidate, None): callable_evaluator(revalidate)}


def _is_by_name(revalidate: object) -> TypeGuard[Mapping[str, Refresher | Engine]]:
    return isinstance(revalidate, Mapping)


def refreshed_by(
    evaluators: Mapping[str, AsyncEvaluator], cache: SelectedPolicyCache
) -> RevalidateCallback:
    """Returns a callback that refreshes each decision with the evaluator of its policy."""
    timed_evaluators = {name: timed(each, cache) for name, each in evaluators.items()}

    async def refresh(
        user_id: str, action: str, resource: str, context: Context | None, *, policy: str = ""
    ) -> Any:  # noqa: ANN401 - a decision, or None
        evaluate = timed_evaluators.get(policy)
        return evaluate and await evaluate(user_id, action, resource, context)

    return refresh
