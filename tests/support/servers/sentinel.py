"""A primary, its replica, and the sentinels that watch them."""

from contextlib import suppress
from secrets import token_hex

from servers.group import ServerGroup
from servers.host import HOST, fields_by_name, free_port, wait_until
from servers.process import Server, Setting


class Sentinels(ServerGroup):
    """A primary, its replica, and three sentinels that watch them, two of which must agree.

    Two sentinels find a server down after 0.8 s of silence, with Redis 6.2 after 1.7 s. They
    promote the replica 1 s later.

    Attributes:
        master: The primary at the last time everything was settled: at the start, after `failover`
            or `settle`.
        replica: The other server.
        sentinels: The three sentinels, which are servers, too.
        url: `redis+sentinel://`, the addresses of the sentinels, `/mymaster/0`.

    Args:
        separable: If True, the servers connect to each other from the addresses in `SOURCES`, and
            `servers.partition` can separate them.
    """

    SERVICE = "mymaster"
    QUORUM = 2
    APART = 200
    """Milliseconds between the moments at which two sentinels find a server down.

    If they found it down at the same time, each would vote for itself, and try again 3 s later.
    """

    SOURCES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
    """The addresses of the first server, of the second, and of the sentinels, if separable."""

    def __init__(self, *, separable: bool = False) -> None:
        super().__init__()
        self._sources = list(self.SOURCES) if separable else []
        with self._stops:
            self.master = self._start(**self._source(0))
            self.replica = self._start(replicaof=(HOST, self.master.port), **self._source(1))
            self.sentinels = self._start_sentinels({free_port(): token_hex(20) for _ in range(3)})
            addresses = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
            self.url = f"redis+sentinel://{addresses}/{self.SERVICE}/0"
            self.settle()
            self._stops = self._stops.pop_all()

    def sources_of_others(self, server: Server) -> list[str]:
        """Returns the addresses from which the other servers and the sentinels connect."""
        own = self.servers.index(server)
        return [source for number, source in enumerate(self._sources) if number != own]

    def _source(self, number: int) -> dict[str, Setting]:
        if not self._sources:
            return {}
        return {"bind_source_addr": self._sources[number], "replica_announce_ip": HOST}

    def primary(self) -> Server:
        """Returns the current primary, according to the first sentinel that answers."""
        from redis import RedisError

        for sentinel in self.sentinels:
            with suppress(RedisError):
                return self._primary_of(sentinel)
        message = "no sentinel answers: start one"
        raise RuntimeError(message)

    def failover(self) -> Server:
        """Has a sentinel promote the replica and waits until both have changed their roles.

        Returns:
            The new primary.
        """
        old = self.primary()
        sentinel = self.sentinels[0]

        def succeeded() -> bool:
            seen = fields_by_name(sentinel.command("SENTINEL", "MASTER", self.SERVICE))
            if int(seen["port"]) != old.port:
                return True
            if "failover_in_progress" not in seen["flags"]:  # not begun, or given up after 1.5 s
                sentinel.command("SENTINEL", "FAILOVER", self.SERVICE)
            return False

        wait_until(succeeded, "a failover succeeds", self.servers)
        self.wait_for_primary(other_than=old)
        self.settle()
        return self.master

    def wait_for_primary(self, *, other_than: Server) -> None:
        """Waits until all sentinels have a new primary, as after the old one was killed."""
        wait_until(
            lambda: all(self._primary_of(sentinel) != other_than for sentinel in self.sentinels),
            "the sentinels have a new primary",
            self.servers,
        )

    def flush(self) -> None:
        """Deletes all keys and scripts."""
        self.master.flush()

    def settle(self) -> None:
        """Waits until all three agree, all servers are up and the replica follows the primary."""
        self._hurry()
        wait_until(
            self._is_settled, "the sentinels find all well, and agree", self.servers, seconds=45
        )

    def _start_sentinels(self, names: dict[int, str]) -> list[Server]:
        """Starts sentinels by port and name. They know each other: discovery would take 2 s."""
        return [
            self._start(
                port=port,
                **{name: given for name, given in self._source(2).items() if "bind" in name},
                sentinel=[
                    ("myid", name),
                    *([("announce-ip", HOST)] if self._sources else []),
                    ("monitor", self.SERVICE, HOST, self.master.port, self.QUORUM),
                    # Sentinels ping once a second. With a shorter limit they would find a server
                    # down at the start.
                    ("down-after-milliseconds", self.SERVICE, 1500 + number * self.APART),
                    ("failover-timeout", self.SERVICE, 1500),
                    ("known-replica", self.SERVICE, HOST, self.replica.port),
                    *(
                        ("known-sentinel", self.SERVICE, HOST, other, names[other])
                        for other in names
                        if other != port
                    ),
                ],
            )
            for number, (port, name) in enumerate(names.items())
        ]

    def _hurry(self) -> None:
        """Shortens the sentinels' intervals of 1, 10 and 2 s between pings, INFO and messages, if
        possible."""
        from redis import ResponseError

        # Pings stay more than 200 ms apart. Once the primary is down, its replica is queried every
        # second, and a replica that was last queried five ping periods ago is not promoted.
        periods = ("PING-PERIOD", 300, "INFO-PERIOD", 500, "PUBLISH-PERIOD", 200)
        with suppress(ResponseError):  # Redis 6.2 has no such command
            for number, sentinel in enumerate(self.sentinels):
                down_after = ("down-after-milliseconds", 600 + number * self.APART)
                sentinel.commands(
                    ("SENTINEL", "DEBUG", *periods), ("SENTINEL", "SET", self.SERVICE, *down_after)
                )

    def _primary_of(self, sentinel: Server) -> Server:
        _, port = sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.SERVICE)
        return self._with_port(int(port))

    def _is_settled(self) -> bool:
        primaries = {self._primary_of(sentinel) for sentinel in self.sentinels}
        if len(primaries) != 1 or not all(map(self._finds_all_well, self.sentinels)):
            return False
        (primary,) = primaries
        replica = self.replica if primary is self.master else self.master
        followed = replica.info("replication")
        if (
            primary.info("replication")["role"] != "master"
            or followed.get("master_port") != str(primary.port)
            or followed["master_link_status"] != "up"
        ):
            return False
        self.master, self.replica = primary, replica
        return True

    def _finds_all_well(self, sentinel: Server) -> bool:
        questions = ("MASTER", "REPLICAS", "CKQUORUM")
        master, replicas, quorum = sentinel.commands(
            *(("SENTINEL", question, self.SERVICE) for question in questions)
        )
        roles = [
            (found["flags"], found["role-reported"])
            for found in map(fields_by_name, (master, *replicas))
        ]
        return (
            # The roles that they report themselves: otherwise the sentinel would soon correct one
            # of them.
            roles == [("master", "master"), ("slave", "slave")]
            and quorum.startswith(f"OK {len(self.sentinels)} usable")
        )
