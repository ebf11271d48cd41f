"""One primary: its commands, its state, and the scan of its keys.

A scan ends with an error if the server repeats a cursor, or scans far more keys than it has.

Each step of a scan has the time of a command; the number of steps is not limited.

A server that refuses INFO does not name its run. Then the whole revocation uses one connection: as
long as that is open, the same server answers.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, TypeAlias

from sark_cache._core.errors import UNREADABLE, UnavailableError
from sark_cache._core.tasks import cancellation_kept
from sark_cache.backends.redis import replies
from sark_cache.backends.redis.connection import (
    GuardedConnection,
    RedisCommand,
    check_client,
)
from sark_cache.backends.redis.permissions import named, refusal
from sark_cache.backends.redis.replies import Page
from sark_cache.backends.redis.scan_pace import Pace

NEVER_DECODE: Final = "NEVER_DECODE"
"""The option of both clients that returns a reply as bytes."""
STEP_SHARE = 0.1
"""The target time of a step, as a share of a command's time-out."""
SCAN_KEYS = 1_000_000
"""The number of keys that a scan may request before the number of keys is queried."""
SCAN_SHARE = 16
"""The number of keys that a scan may request, for each key that the server has.

A table that has shrunk has more buckets than keys, at most 32 times as many while the server saves.
A step visits ten buckets for each key that it requests.
"""
MAX_SCAN_KEYS = 2**32
"""The maximum number of keys that any scan may request: more than a server can have."""

Visit: TypeAlias = Callable[["Primary", list[str]], Awaitable[int]]


class UnconfirmedError(Exception):
    """A revocation that was not confirmed. The message says why."""


class RefusedError(UnconfirmedError):
    """A revocation that the server refuses to this user. The message names the command."""


class Primary:
    """One primary: the only server, or a node of a cluster.

    Args:
        connection: The connection to the servers.
        node: The node of the cluster. None: there is no cluster.
    """

    def __init__(self, connection: GuardedConnection, node: Any = None) -> None:  # noqa: ANN401 - of either library
        self._connection = connection
        self._node = node
        self._held: Any = None
        """The connection that all commands use. None: any connection of the pool."""
        seconds = STEP_SHARE * connection.command_timeout
        self._scan_pace: Final = Pace(seconds)
        self._parts_pace: Final = Pace(seconds)

    async def run(
        self, *commands: RedisCommand, waits: float = 0.0, raises: bool = True
    ) -> list[Any]:
        """Sends commands and returns the replies, in one round trip over one connection.

        Args:
            commands: The commands.
            waits: The time, in seconds, that WAIT may take. It is added to the time-out.
            raises: If False, the server's error to a command is returned as its reply.

        Raises:
            RefusedError: The server refuses a command.
            UnavailableError: A reply cannot be read.
            Exception: An error of the client.
        """
        try:
            with cancellation_kept():
                async with asyncio.timeout_at(self._connection.deadline() + waits):
                    answers: list[Any] = await self._connection.send_when_free(
                        lambda: self._send(commands)
                    )
        except replies.MISSHAPEN:  # from the client, which parses replies to SCAN and INFO
            raise UnavailableError(UNREADABLE) from None
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, Exception) and (raises or self._connection.is_no_answer(answer)):
                raise self._refused(command, answer) or answer
        return answers

    def _refused(self, command: RedisCommand, error: Exception) -> RefusedError | None:
        said = refusal(error)
        if said is None:
            return None
        self._connection.suspect()
        return RefusedError(f"the server refuses {named(error, str(command[0]))} ({said})")

    async def _send(self, commands: Sequence[RedisCommand]) -> list[Any]:
        if self._held is not None:
            return await self._send_over(self._held, commands)
        if self._node is None:
            pipeline = self._connection.client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command, **_options(command))
            sent: list[Any] = await pipeline.execute(raise_on_error=False)
            return sent
        answers = await self._send_to_node(commands)
        if any(self._connection.is_no_answer(answer) for answer in answers):
            # The server may have closed an idle connection. The second try opens a new one.
            answers = await self._send_to_node(commands)
        return answers

    async def _send_over(self, raw: Any, commands: Sequence[RedisCommand]) -> list[Any]:  # noqa: ANN401
        if not raw.is_connected:  # it would reconnect, maybe to another server
            message = "the connection was lost, and the server does not say whether it is the same"
            raise UnconfirmedError(message)
        try:
            packed = raw.pack_commands(commands)
            await raw.send_packed_command(packed, check_health=False)
            return [await self._read(raw, **_options(command)) for command in commands]
        except BaseException:
            # A reply that was not read must not answer the next command.
            await raw.disconnect(nowait=True)
            raise

    @staticmethod
    async def _read(raw: Any, **options: bool) -> Any:  # noqa: ANN401
        """Reads a reply. Returns the error of a refused command, and raises other errors."""
        try:
            return await raw.read_response(disable_decoding=bool(options))
        except Exception as error:
            if refusal(error) is None:
                raise
            return error

    async def _send_to_node(self, commands: Sequence[RedisCommand]) -> list[Any]:
        """Sends commands to the node itself. The client's pipeline would follow a moved key."""
        pipelined = import_module(f"{check_client(self._connection.client)}.asyncio.cluster")
        sent = [
            pipelined.PipelineCommand(at, *command, **_options(command))
            for at, command in enumerate(commands)
        ]
        await self._node.execute_pipeline(sent)
        return [command.result for command in sent]

    async def hold(self) -> int:
        """Uses one connection for all commands, until `release`. Returns an id of it."""
        if self._held is None:
            pool = self._connection.client.connection_pool
            # valkey-py requires the name of a command, and redis-py deprecates it.
            names = ("_",) if check_client(self._connection.client) == "valkey" else ()
            with cancellation_kept():
                async with asyncio.timeout_at(self._connection.deadline()):
                    self._held = await self._connection.send_when_free(
                        lambda: pool.get_connection(*names)
                    )
        return id(self._held)

    async def release(self) -> None:
        """Returns the held connection to the pool."""
        held, self._held = self._held, None
        if held is not None:
            await self._connection.client.connection_pool.release(held)

    @property
    def takes_many_keys(self) -> bool:
        """True if one command may have keys of several slots."""
        return self._node is None

    async def state(self, *also: RedisCommand) -> tuple[Any, int | None, list[Any]]:
        """Returns the id of the server's run, the number of its connected replicas, and replies.

        If the server refuses INFO, holds one connection, and returns the id of that. The number is
        None if the server does not report it.

        Args:
            also: Commands that are sent in the same round trip. An error is returned as a reply.
                There are no replies if this call begins to hold a connection: they came over
                another one, and so maybe from another server.

        Raises:
            UnconfirmedError: The server is not a primary.
            UnavailableError: A reply cannot be read.
            RefusedError: The server is a node of a cluster, and refuses INFO.
            Exception: An error of the client.
        """
        info, role, *answers = await self.run(("INFO", "server"), ("ROLE",), *also, raises=False)
        if not isinstance(role, Exception):
            is_primary, replicas = replies.read(replies.role, role)
        elif not isinstance(info, Exception) and refusal(role) == "NOPERM":
            [replication] = await self.run(("INFO", "replication"))
            is_primary, replicas = replies.read(replies.replication, replication)
        else:
            is_primary, replicas = await self._takes_writes(), None
        if not is_primary:
            with suppress(Exception):  # so that the next attempt does not ask this server again
                await self._connection.drop_idle_connections()
            message = "the server is not the primary any more"
            raise UnconfirmedError(message)
        if not isinstance(info, Exception):
            return replies.read(replies.run_id, info), replicas, answers
        if self._node is not None:
            raise self._refused(("INFO",), info) or info
        was_held = self._held is not None
        return await self.hold(), replicas, answers if was_held else []

    async def _takes_writes(self) -> bool:
        """Returns whether the server is a primary. A replica refuses to write."""
        try:
            await self.run(("UNLINK", f"{self._connection.log}.check"))
        except Exception as error:
            if "READONLY" in str(error) or type(error).__name__ == "ReadOnlyError":
                return False
            raise
        return True

    async def slots(self) -> tuple[str, ...]:
        """Returns the ranges of slots that a node of a cluster reports as its own.

        Raises:
            UnconfirmedError: A slot is being moved, or the node is a replica.
            UnavailableError: The reply cannot be read.
            Exception: An error of the client.
        """
        [nodes] = await self.run(("CLUSTER", "NODES"))
        node = replies.read(replies.own_node, nodes)
        if not node.is_primary:
            message = "a server of the cluster is not a primary any more"
            raise UnconfirmedError(message)
        if node.is_moving:
            message = "a slot of the cluster is being moved"
            raise UnconfirmedError(message)
        return node.slots

    async def scan_all(self, pattern: Callable[[], str], visit: Visit, known_run: object) -> int:
        """Visits every key that matches and exists during the whole scan.

        Args:
            pattern: Returns the glob of the next step.
            visit: Gets the keys of each step.
            known_run: The id of the server's run, or of the held connection.

        Returns:
            The sum of the results of `visit`.

        Raises:
            UnconfirmedError: Another server answered during the scan, or the scan does not end.
            UnavailableError: A reply cannot be read.
            Exception: An error of the client, or of `visit`.
        """
        total, cursor = 0, 0
        asked, most = 0, SCAN_KEYS
        # Brent's algorithm: a cycle of cursors returns to the one that is remembered.
        remembered, steps, next_remembered = -1, 0, 1
        while True:
            count, run, page = await self._scan_step(cursor, pattern())
            if run != known_run:
                message = "another server has become the primary"
                raise UnconfirmedError(message)
            if page.keys:
                total += await visit(self, page.keys)
            cursor = page.cursor
            if cursor == 0:
                return total
            if cursor == remembered:
                message = "the scan of the keys does not end: the server repeats a cursor"
                raise UnconfirmedError(message)
            steps += 1
            if steps == next_remembered:
                remembered, next_remembered = cursor, 2 * steps
            asked += count
            if asked > most and asked > (most := await self._max_scan_keys()):
                message = "the scan of the keys does not end: it requested far more keys than exist"
                raise UnconfirmedError(message)

    async def _max_scan_keys(self) -> int:
        """Returns the maximum number of keys that a scan may request."""
        if self._held is not None:  # it refuses INFO
            return MAX_SCAN_KEYS
        [info] = await self.run(("INFO", "keyspace"))
        wanted = max(SCAN_KEYS, SCAN_SHARE * replies.read(replies.keys_in_all, info))
        return min(wanted, MAX_SCAN_KEYS)

    async def _scan_step(self, cursor: int, pattern: str) -> tuple[int, object, Page]:
        """Runs one step of a scan. Retries with fewer keys if there is no answer in time.

        Returns:
            The number of keys requested, the id of the server's run or of the held connection, and
            the reply.
        """
        while True:
            count = self._scan_pace.keys
            scan = ("SCAN", cursor, "MATCH", pattern, "COUNT", count)
            commands = (scan,) if self._held is not None else (("INFO", "server"), scan)
            began = time.monotonic()
            try:
                *info, reply = await self.run(*commands)
            except Exception as error:
                if (
                    self._held is not None
                    or not self._is_late(error)
                    or not self._scan_pace.failed()
                ):
                    raise
                continue  # a cursor may be used with any number of keys
            page = replies.read(replies.page, reply)
            self._scan_pace.took(page.size, time.monotonic() - began)
            run = replies.read(replies.run_id, info[0]) if info else id(self._held)
            return count, run, page

    async def in_parts(
        self, keys: Sequence[str], visit: Callable[[Sequence[str]], Awaitable[int]]
    ) -> int:
        """Calls `visit` with parts of the keys. Returns the sum of its results.

        A part without an answer in time is visited again in shorter parts. Keys that were removed
        by the first visit are not counted.

        Raises:
            Exception: The error that `visit` raises.
        """
        total, at = 0, 0
        pace = self._parts_pace
        while at < len(keys):
            part = keys[at : at + pace.keys]
            began = time.monotonic()
            try:
                total += await visit(part)
            except Exception as error:
                if self._held is not None or not self._is_late(error) or not pace.failed():
                    raise
                continue
            pace.took(sum(map(len, part)), time.monotonic() - began)
            at += len(part)
        return total

    @staticmethod
    def _is_late(error: Exception) -> bool:
        """Returns whether an error is a time-out, of Python or of the client."""
        return type(error).__name__ == "TimeoutError"

    async def replicated(self, replicas: int) -> None:
        """Waits until a number of replicas have all previous writes.

        Raises:
            UnconfirmedError: Fewer replicas confirmed it in time.
            Exception: An error of the client.
        """
        # Less than the time-out of the client itself.
        waits = 0.8 * self._connection.command_timeout
        # WAIT covers the writes of all clients before the last command of its own connection.
        _, reached = await self.run(
            ("SCAN", 0, "COUNT", 1), ("WAIT", replicas, max(1, int(1e3 * waits))), waits=waits
        )
        reached = replies.read(replies.count, reached)
        if reached < replicas:
            message = f"{replicas - reached} of {replicas} replicas have not confirmed it"
            raise UnconfirmedError(message)


def _options(command: RedisCommand) -> dict[str, bool]:
    """Returns the options that the client needs for a command.

    Keys of other programs need not be UTF-8, and a client that decodes replies would fail.
    """
    return {NEVER_DECODE: True} if command[0] == "SCAN" else {}
