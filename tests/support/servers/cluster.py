"""A cluster, and slots that move between its masters."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

from servers.group import ServerGroup
from servers.host import HOST, fields_by_line, wait_until
from servers.process import Server

SLOTS = 16_384


class Cluster(ServerGroup):
    """Three masters with a third of the slots each, and `replicas` servers for each of them.

    Attributes:
        servers: All servers, first the masters in the order of their slots. Roles may change: use
            `owner_of` for the current master of a slot.
        url: `redis+cluster://` and the addresses of the three.
    """

    MASTERS = 3

    def __init__(self, *, replicas: int = 0) -> None:
        super().__init__()
        with self._stops:
            for _ in range(self.MASTERS * (1 + replicas)):
                self._start(
                    cluster_enabled=True,
                    cluster_node_timeout=1000,
                    cluster_require_full_coverage=False,
                    cluster_announce_ip=HOST,  # else a node learns its address from the others
                )
            masters = self.servers[: self.MASTERS]
            self.url = "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in masters)
            self._share_slots(masters)
            self._meet()
            for number, replica in enumerate(self.servers[self.MASTERS :]):
                self._attach(replica, masters[number % self.MASTERS])
            self.settle()
            self._stops = self._stops.pop_all()

    def owner_of(self, slot: int) -> Server:
        """Returns the master that owns a slot, according to the first server that answers."""
        from redis import RedisError

        for server in self.servers:
            with suppress(RedisError):
                for first, last, port in _view(server.command("CLUSTER", "SLOTS")):
                    if first <= slot <= last:
                        return self._with_port(port)
        message = f"no server of the cluster that answers knows who has slot {slot}"
        raise RuntimeError(message)

    def move_slot(self, slot: int, to: Server) -> None:
        """Moves a slot with its keys to another master; returns once all servers know it."""
        with self.moving(slot, to):
            pass

    @contextmanager
    def moving(self, slot: int, to: Server) -> Generator["SlotMove"]:
        """Keeps a slot between its master and another one; on leaving, completes the move.

        During the move, the source answers for the keys that it still has and redirects to the
        target for others (ASK). The target answers for them only after ASKING. A command with keys
        of both sides gets TRYAGAIN from the target, and since Redis 7 also from the source.
        """
        source = self.owner_of(slot)
        ids = {server: server.command("CLUSTER", "MYID") for server in (source, to)}
        to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to])
        move = SlotMove(slot, source, to)
        try:
            yield move
        finally:
            while keys := move.keys():
                move.migrate(*keys)
            # The target first. If the source went first, no server would claim the slot for a
            # moment.
            others = [server for server in self.servers if server not in ids]
            masters = [server for server in others if server.command("ROLE")[0] == "master"]
            for server in (to, source, *masters):
                server.command("CLUSTER", "SETSLOT", slot, "NODE", ids[to])
            self.settle()

    def flush(self) -> None:
        """Deletes all keys and scripts."""
        from redis import ReadOnlyError

        for server in self.servers:
            with suppress(ReadOnlyError):  # a replica follows its master
                server.flush()

    def settle(self) -> None:
        """Waits until every server reports the cluster as up and all agree about the slots."""
        wait_until(self._is_settled, "the cluster is sound, and its servers agree", self.servers)

    def _share_slots(self, masters: list[Server]) -> None:
        """Assigns slots to masters and an epoch to each server: resolving equal epochs is slow."""
        for epoch, server in enumerate(self.servers, 1):
            server.command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        bounds = [round(number * SLOTS / len(masters)) for number in range(len(masters) + 1)]
        for master, first, end in zip(masters, bounds, bounds[1:], strict=False):
            master.command("CLUSTER", "ADDSLOTS", *range(first, end))

    def _meet(self) -> None:
        """Introduces every server to every other one: gossip alone would take seconds."""
        for number, server in enumerate(self.servers):
            for other in self.servers[:number]:
                server.command("CLUSTER", "MEET", HOST, other.port)

    def _attach(self, replica: Server, master: Server) -> None:
        name = master.command("CLUSTER", "MYID")
        wait_until(
            lambda: replica.command("CLUSTER", "REPLICATE", name) == "OK",
            "a replica knows its master",
            [replica, master],
        )

    def _is_settled(self) -> bool:
        views = {self._sound_view_of(server) for server in self.servers}
        view = views.pop()
        return not views and sum(last - first + 1 for first, last, _ in view) == SLOTS

    def _sound_view_of(self, server: Server) -> "_View":
        """Returns the owners of all slots as a server reports them, `()` while it is not sound."""
        nodes, cluster, replication, slots = server.commands(
            ("CLUSTER", "NODES"), ("CLUSTER", "INFO"), ("INFO", "replication"), ("CLUSTER", "SLOTS")
        )
        known = [line.split() for line in nodes.splitlines()]
        flags = {flag for node in known for flag in node[2].split(",")}
        is_sound = (
            len(known) == len(self.servers)
            and flags <= {"myself", "master", "slave"}
            and all(node[7] == "connected" for node in known)
            and fields_by_line(cluster)["cluster_state"] == "ok"
            and fields_by_line(replication).get("master_link_status", "up") == "up"
        )
        return _view(slots) if is_sound else ()


class SlotMove:
    """A slot that moves from one master to another.

    Attributes:
        slot: Its number.
        source: The master that has it.
        target: The master that gets it.
    """

    def __init__(self, slot: int, source: Server, target: Server) -> None:
        self.slot = slot
        self.source = source
        self.target = target

    def keys(self) -> list[str]:
        """Returns up to 1,000 keys of the slot that the source still has."""
        keys: list[str] = self.source.command("CLUSTER", "GETKEYSINSLOT", self.slot, 1000)
        return keys

    def migrate(self, *keys: str) -> None:
        """Moves these keys to the target now."""
        target = (HOST, self.target.port)
        self.source.command("MIGRATE", *target, "", 0, 1000, "REPLACE", "KEYS", *keys)


_View = tuple[tuple[int, int, int], ...]
"""First slot, last slot and port of the master, for each range of slots."""


def _view(slots: list[Any]) -> _View:
    """Returns a sorted view of a reply to CLUSTER SLOTS, without replicas."""
    return tuple(sorted((first, last, master[1]) for first, last, master, *_ in slots))
