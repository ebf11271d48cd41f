"""Fixtures for servers, known to all tests by `pytest_plugins` in tests/conftest.py."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeVar

import pytest

from servers.cluster import Cluster
from servers.host import server_binary
from servers.process import ELSEWHERE, Elsewhere, Server, Setting
from servers.sentinel import Sentinels

Servers = TypeVar("Servers", Server, Cluster, Sentinels)


@pytest.fixture(scope="session")
def server_available() -> None:
    """Skips a test where no server exists for the platform; fails if one is only not installed."""
    if sys.platform == "win32":
        pytest.skip("Redis and Valkey do not run on Windows")
    server_binary()


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server of all tests, as the last test left it; most tests need `fresh_redis`."""
    url = os.environ.get(ELSEWHERE)
    if not url:
        request.getfixturevalue("server_available")
    with Elsewhere(url) if url else Server() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(server_available: None) -> Iterator[Cluster]:
    """The cluster of all tests, as the last test left it; most tests need `fresh_cluster`."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_sentinels(server_available: None) -> Iterator[Sentinels]:
    """The pair of all tests with its sentinels, as left; most tests need `fresh_sentinels`."""
    with Sentinels() as sentinels:
        yield sentinels


def _emptied(servers: Servers) -> Servers:
    """Returns servers after all of them run and hold nothing."""
    servers.revive()
    servers.flush()
    return servers


@pytest.fixture
def fresh_redis(redis_server: Server) -> Server:
    """The server of all tests, running and empty. To change its configuration, use `own_redis`."""
    return _emptied(redis_server)


@pytest.fixture
def fresh_cluster(redis_cluster: Cluster) -> Cluster:
    """The cluster of all tests, running and empty. A slot may be where an earlier test moved it."""
    return _emptied(redis_cluster)


@pytest.fixture
def fresh_sentinels(redis_sentinels: Sentinels) -> Sentinels:
    """The pair of all tests, running, in sync and empty. Either server may be the primary."""
    return _emptied(redis_sentinels)


@pytest.fixture
def own_redis(server_available: None) -> Iterator[Callable[..., Server]]:
    """Starts servers for this test alone, configured like `Server`; stops them after the test."""
    with ExitStack() as stops:

        def start(**config: Setting) -> Server:
            return stops.enter_context(Server(**config))

        yield start
