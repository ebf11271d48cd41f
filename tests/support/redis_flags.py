"""Percentages in Redis: limits on the time to see them, and clients whose replies are held."""

import threading
import time
from contextlib import contextmanager

KEY = "feature_flag:rust_cache"
A_SECOND = 1.0
"""The number of seconds within which a change is seen."""
SOON = 2.0
"""The number of seconds within which a manager notices that its server is back."""
PATIENCE = 10.0
"""The maximum number of seconds to wait where no limit is promised."""


@contextmanager
def within(seconds):
    """Fails unless the condition of the block is met in time."""
    begun = time.monotonic()
    yield lambda: time.monotonic() - begun < seconds
    assert time.monotonic() - begun < seconds


def becomes(flags, percentage, seconds=A_SECOND, feature="rust_cache"):
    """Waits until a percentage is seen; returns whether it was."""
    with within(seconds) as in_time:
        while in_time() and flags.get_rollout_pct(feature) != percentage:
            time.sleep(0.005)
    return flags.get_rollout_pct(feature) == percentage


def looked(flags):
    """Waits for a poll that starts now."""
    assert flags._poller.poll_now().wait(PATIENCE)


def connections(server):
    """Returns the number of connected clients, without the one that counts."""
    return len(server.command("CLIENT", "LIST").splitlines()) - 1


def flag_threads():
    """Returns the running threads that poll flags."""
    return [thread for thread in threading.enumerate() if "flag poller" in thread.name]


class Gate:
    """Blocks a call once its work is done, if `hold_next` was called."""

    def __init__(self):
        self._open, self._reached = threading.Event(), threading.Event()
        self._open.set()

    def hold_next(self):
        self._reached.clear()
        self._open.clear()

    def wait(self):
        assert self._reached.wait(PATIENCE)

    def go_on(self):
        self._open.set()

    def after(self, act):
        def gated(*arguments, **options):
            answer = act(*arguments, **options)
            self._reached.set()
            assert self._open.wait(PATIENCE)
            return answer

        return gated


class Wrapped:
    """A client whose type is hidden, like one that counts or traces."""

    def __init__(self, client):
        self._client = client
        self.set, self.eval = client.set, client.eval
        self.closed = False

    def pipeline(self, transaction):
        return self._client.pipeline(transaction)

    def close(self):
        self.closed = True


class HeldUp(Wrapped):
    """A client whose replies arrive when the test releases them."""

    def __init__(self, client):
        super().__init__(client)
        self.reads, self.sets = Gate(), Gate()
        self.set = self.sets.after(client.set)

    def pipeline(self, transaction):
        pipeline = self._client.pipeline(transaction)
        pipeline.execute = self.reads.after(pipeline.execute)
        return pipeline
