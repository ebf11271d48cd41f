"""Flags from OpenFeature, if the application has set a provider.

Importing this module imports no SDK. Each request calls the SDK and the provider, which takes some
20 µs with a provider in memory.
"""

import sys
from typing import Any, Final, Protocol

from sark_cache._core.fault_log import FaultLog

DOMAIN: Final = "sark_cache"
"""The domain of the flags. An application can set a provider for it, or a default provider."""


class BooleanFlags(Protocol):
    """The part of an OpenFeature client that this package uses."""

    def get_boolean_value(
        self,
        flag_key: str,
        default_value: bool,  # noqa: FBT001 - the signature is OpenFeature's
        evaluation_context: Any = None,  # noqa: ANN401
    ) -> object:
        """Returns the value of a flag, or the default: a bool, unless the provider is wrong."""
        ...


class Provider:
    """Reads flags of users from an OpenFeature client. If that fails, returns a default.

    Raises:
        ModuleNotFoundError: `openfeature-sdk` is not installed.
    """

    def __init__(self, client: BooleanFlags, faults: FaultLog) -> None:
        # An optional dependency, as in `openfeature_client`.
        from openfeature.evaluation_context import (  # noqa: PLC0415 # pyright: ignore[reportMissingTypeStubs]
            EvaluationContext,
        )

        self._client: Final = client
        self._context_of: Final = EvaluationContext
        self._faults: Final = faults

    def includes(self, user_id: str, feature: str, *, default: bool) -> bool:
        """Returns whether the provider gives a feature to a user, or the default if it fails."""
        try:
            context = self._context_of(targeting_key=user_id)
            answer = self._client.get_boolean_value(feature, default, context)
        except Exception as error:  # noqa: BLE001 - a client may raise anything
            # The log names only the type: the message may contain the user.
            self._faults.report("OpenFeature", f"the client raised {type(error).__qualname__}")
            return default
        if isinstance(answer, bool):
            return answer
        self._faults.report(
            "OpenFeature", f"the client returned {type(answer).__qualname__}, not a bool"
        )
        return default


def openfeature_client() -> BooleanFlags | None:
    """Returns a client of OpenFeature. None: the application has set no provider.

    Never imports the SDK: an application that has set a provider has imported it.
    """
    api = sys.modules.get("openfeature.api")
    if api is None:
        return None
    from openfeature.provider.no_op_provider import (  # noqa: PLC0415 # pyright: ignore[reportMissingTypeStubs]
        NoOpProvider,
    )

    client = api.get_client(DOMAIN)
    return None if isinstance(client.provider, NoOpProvider) else client
