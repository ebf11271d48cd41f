"""Real Redis or Valkey servers for tests: a single server, a cluster, or a pair with sentinels.

All servers listen on 127.0.0.1 only and keep their files in temporary directories. No server
outlives the interpreter that started it, however that interpreter ends. Redis 6.2 is enough.

A server starts in 15 ms, a pair with its sentinels in 0.5 s (Valkey 9: 1.2 s), a cluster in 2.3 s,
because a node waits 2 s before it reports the cluster as up. A failover takes 2.5 s until
everything is settled, with Redis 6.2 more than 20 s.

With `SARK_CACHE_TEST_SERVER=redis://HOST:PORT/0`, tests that need one server use that one and empty
it. Tests that would stop or pause it are skipped.
"""

from servers.cluster import Cluster
from servers.host import HOST, free_port, server_binary, wait_until
from servers.process import Elsewhere, Server
from servers.sentinel import Sentinels

__all__ = [
    "HOST",
    "Cluster",
    "Elsewhere",
    "Sentinels",
    "Server",
    "free_port",
    "server_binary",
    "wait_until",
]
