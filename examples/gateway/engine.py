"""The policy engine: the Rego files of this example, evaluated off the event loop."""

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from regopy import Interpreter

from sark_cache import Loaded, RustPolicyCache

HERE = Path(__file__).parent
POLICY = HERE / "policy"
DATA = HERE / "data"
WORKERS = 2
STATE = "GATEWAY_STATE"
"""The variable with the directory that all workers share. Without it, each has one of its own."""


class PolicyEngine:
    """Evaluates `data.gateway.decision`. One evaluation takes about a millisecond.

    An interpreter holds one input at a time, so each thread has one of its own.
    """

    def __init__(self) -> None:
        self.users = read("users")
        self._own_state = None if STATE in os.environ else tempfile.TemporaryDirectory()
        self._state = Path(self._own_state.name if self._own_state else os.environ[STATE])
        self._own = threading.local()
        self._workers = ThreadPoolExecutor(WORKERS, "policy", initializer=self._compile)

    async def evaluate(
        self, user: str, action: str, tool: str, context: Mapping[str, Any] | None
    ) -> Loaded:
        """Returns the policy's decision: allow, reason, sensitivity and remove_parameters.

        It also sets the time to live, because only the policy knows the tool's sensitivity.
        """
        record, context = self.users.get(user), context or {}
        if record and self._suspension(user).exists():
            record = {**record, "suspended": True}
        question = {"user": record, "action": action, "tool": tool, "context": context}
        loop = asyncio.get_running_loop()
        decision = await loop.run_in_executor(self._workers, self._evaluate, question)
        return Loaded(decision, RustPolicyCache.OPTIMIZED_TTL[decision["sensitivity"]])

    def suspend(self, user: str) -> None:
        """Suspends a known user, in all workers."""
        self._suspension(user).touch()

    def close(self) -> None:
        """Ends the threads."""
        self._workers.shutdown()
        if self._own_state:
            self._own_state.cleanup()

    def _suspension(self, user: str) -> Path:
        """Returns the file that exists if a known user is suspended."""
        return self._state / f"{user}.suspended"

    def _compile(self) -> None:
        self._own.interpreter, self._own.query = compiled()

    def _evaluate(self, question: dict[str, Any]) -> dict[str, Any]:
        self._own.interpreter.set_input(question)
        # Keep the output until it is read: regopy's nodes point into it.
        output = self._own.interpreter.query_bundle(self._own.query)
        decision: dict[str, Any] = json.loads(str(output.binding("decision")))
        return decision


def compiled() -> tuple[Any, Any]:
    """Returns an interpreter with the policy and its data, and the compiled query."""
    interpreter = Interpreter()
    interpreter.add_data({name: read(name) for name in ("roles", "tools")})
    for file in sorted(POLICY.glob("*.rego")):
        interpreter.add_module(file.name, file.read_text(encoding="utf-8"))
    return interpreter, interpreter.build("decision = data.gateway.decision")


def read(name: str) -> dict[str, Any]:
    """Returns one of the data files: users, roles or tools."""
    content: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return content
