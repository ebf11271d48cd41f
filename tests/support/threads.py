"""Work in many threads at once."""

import threading
from concurrent.futures import ThreadPoolExecutor


def in_threads(count, work):
    """Runs `work(number)` in `count` threads at once; raises the first error that one of them
    raised."""
    start = threading.Barrier(count)

    def begin(number):
        start.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))
