"""Arguments that are the same for all requests, checked when they are given."""

from sark_cache._core import arguments, limits


def read_policy(given: object) -> str:
    """Returns the name of a policy, checked.

    Raises:
        TypeError: The name is not a str.
        ValueError: The name is too long.
    """
    return within("policy", arguments.read_policy(given), limits.MAX_POLICY_BYTES)


def within(argument: str, text: str, limit: int) -> str:
    """Returns a constant.

    Raises:
        ValueError: The constant is so long that no decision with it could be stored.
    """
    size = arguments.excess(text, limit)
    if size is not None:
        message = (
            f"{argument} must be at most {limit} bytes, not {size}: a longer one is never stored"
        )
        raise ValueError(message)
    return text
