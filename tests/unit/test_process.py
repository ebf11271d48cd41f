"""The cache and its process: forks, the exit of the interpreter, a missing compiled module."""

import ast
import shutil
import sys
from pathlib import Path

import pytest

import sark_cache
from interpreters import needs_fork, run, started

PACKAGE = Path(sark_cache.__file__).parent


FILL = """
import asyncio, os, sys, threading
from sark_cache import RustPolicyCache
ALLOW = {"allow": True}
cache = RustPolicyCache(max_size=100_000)
asyncio.run(cache.set_batch([(f"u{i % 10}", "read", str(i), ALLOW) for i in range(20_000)]))

def in_child(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print("child:", repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


@needs_fork
def test_a_forked_child_has_a_working_copy():
    assert run(
        FILL
        + """
def work():
    assert asyncio.run(cache.get("u1", "read", "1")) == ALLOW
    assert asyncio.run(cache.size()) == 20_000  # visits them all, on threads of the child's own
    assert asyncio.run(cache.invalidate(user_id="u1")) == 2_000
    assert asyncio.run(cache.get("u1", "read", "1")) is None
    assert asyncio.run(cache.set("new", "read", "1", ALLOW))

assert asyncio.run(cache.size()) == 20_000  # the parent's threads run
print(in_child(work), in_child(work))
print(asyncio.run(cache.size()), asyncio.run(cache.get("u1", "read", "1")) == ALLOW)
print(asyncio.run(cache.get("new", "read", "1")))
"""
    ) == ["0 0", "20000 True", "None"]


@needs_fork
def test_a_child_can_fork_again():
    assert run(
        FILL
        + """
def grandchild():
    assert asyncio.run(cache.size()) == 20_000

def child():
    assert asyncio.run(cache.size()) == 20_000
    assert in_child(grandchild) == 0
    assert asyncio.run(cache.size()) == 20_000

print(in_child(child))
"""
    ) == ["0"]


@needs_fork
def test_a_fork_while_the_cache_is_busy_leaves_a_working_cache_to_the_child():
    assert run(
        FILL
        + """
done = threading.Event()

def busy(number):
    async def main():
        while not done.is_set():
            nobody = cache.invalidate(user_id="nobody")
            await asyncio.gather(cache.size(), nobody, cache.cleanup_expired())
            await cache.set_batch([(f"u{i % 10}", "read", str(i), ALLOW) for i in range(2_000)])
    asyncio.run(main())

def work():
    assert asyncio.run(cache.get("u1", "read", "11111")) == ALLOW
    for i in range(5_000):  # more than moka's log holds: its bookkeeping must run in the child
        cache.set("child", "read", str(i), ALLOW)
    assert asyncio.run(cache.size()) == 25_000
    assert asyncio.run(cache.invalidate(user_id="child")) == 5_000

threads = [threading.Thread(target=busy, args=(n,)) for n in range(3)]
for thread in threads: thread.start()
codes = [in_child(work) for _ in range(30)]
done.set()
for thread in threads: thread.join()
print(codes == [0] * 30)
"""
    ) == ["True"]


@needs_fork
def test_forks_in_several_threads_at_once_leave_working_caches_to_the_children():
    assert run(
        FILL
        + """
import signal
bad = []

def grandchild():
    assert asyncio.run(cache.size()) == 20_000

def child():
    signal.alarm(20)
    assert asyncio.run(cache.get("u1", "read", "11111")) == ALLOW
    assert in_child(grandchild) == 0

def fork_often(_):
    for _ in range(15):
        bad.append(in_child(child))

def busy():
    while not done.is_set():
        asyncio.run(cache.size())

done = threading.Event()
sweeper = threading.Thread(target=busy)
sweeper.start()
forkers = [threading.Thread(target=fork_often, args=(n,)) for n in range(4)]
for forker in forkers: forker.start()
for forker in forkers: forker.join()
done.set()
sweeper.join()
print(bad == [0] * 60)
"""
    ) == ["True"]


@needs_fork
def test_a_child_that_is_forked_during_an_import_of_the_settings_can_get_its_cache():
    assert run(
        """
import os, signal, sys, threading, time
from sark_cache import get_rust_policy_cache
importing = threading.Event()

class SlowFinder:
    def find_spec(self, name, path, target=None):
        if name == "sark_cache.settings":
            importing.set()
            time.sleep(0.5)

sys.meta_path.insert(0, SlowFinder())
thread = threading.Thread(target=get_rust_policy_cache)
thread.start()
importing.wait()
child = os.fork()
if child == 0:
    signal.alarm(10)
    get_rust_policy_cache()
    os._exit(0)
print(os.waitpid(child, 0)[1])
thread.join()
"""
    ) == ["0"]


@needs_fork
def test_a_child_can_log_faults_and_get_its_process_cache_whatever_the_parent_did():
    assert run(
        """
import asyncio, os, signal, threading, logging
from sark_cache import RustPolicyCache, get_rust_policy_cache
logging.getLogger("sark_cache").addHandler(logging.NullHandler())
cache = RustPolicyCache()
done = threading.Event()

def faults():
    while not done.is_set():
        asyncio.run(cache.get("a", "b", "c", {"x": object()}))
        get_rust_policy_cache()

threads = [threading.Thread(target=faults) for _ in range(2)]
for thread in threads: thread.start()
codes = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        asyncio.run(cache.get("a", "b", "c", {"x": object()}))
        get_rust_policy_cache()
        os._exit(0)
    codes.append(os.waitpid(child, 0)[1])
done.set()
for thread in threads: thread.join()
print(codes == [0] * 20)
"""
    ) == ["True"]


@needs_fork
def test_operations_from_before_a_fork_raise_an_error_in_the_child():
    assert run(
        FILL
        + """
size = cache.size()

def work():
    try:
        asyncio.run(size)
    except RuntimeError as error:
        assert "started before a fork" in str(error), error
    else:
        raise AssertionError("finished in the child")

print(in_child(work), asyncio.run(size))
"""
    ) == ["0 20000"]


@needs_fork
def test_a_child_does_not_wait_for_loads_of_the_parent():
    assert run(
        FILL
        + """
begun, may_end = threading.Event(), threading.Event()

def wait():  # in a thread, so that the import of the thread pool cannot overlap with the fork
    begun.set()
    may_end.wait()

async def slow():
    await asyncio.to_thread(wait)
    return ALLOW

async def own():
    return {"by": os.getpid()}

def ask(loader):
    return asyncio.run(asyncio.wait_for(cache.get_or_load("new", "read", "1", loader), 10))

def work():
    assert ask(own) == {"by": os.getpid()}
    assert asyncio.run(cache.get("new", "read", "1")) == {"by": os.getpid()}

answers = []
asking = [threading.Thread(target=lambda: answers.append(ask(slow))) for _ in range(2)]
for thread in asking: thread.start()
begun.wait()
print(in_child(work))
may_end.set()
for thread in asking: thread.join()
print(answers == [ALLOW, ALLOW], cache.metrics.loads)
"""
    ) == ["0", "True 1"]


@pytest.mark.skipif(sys.platform != "linux", reason="threads are limited this way on Linux")
def test_where_no_thread_can_be_started_operations_run_on_the_caller_s_thread():
    assert run(
        FILL
        + """
import resource
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
is_root = os.getuid() == 0
if is_root:
    os.setresuid(65534, 65534, 0)  # the limit is not for root
try:
    threading.Thread(target=print).start()
except RuntimeError:
    print("no threads")
print(asyncio.run(cache.size()), asyncio.run(cache.invalidate(user_id="u1")))
if is_root:
    os.setresuid(0, 0, 0)  # a measurement of the coverage is written at the exit
"""
    ) == ["no threads", "20000 2000"]


def test_operations_at_exit_are_finished_too():
    assert run(
        """
import atexit

def last():
    print(asyncio.run(cache.invalidate(user_id="u1")))

atexit.register(last)
"""
        + FILL
    ) == ["2000"]


@pytest.mark.parametrize(
    "pending",
    [
        "cache.clear()",
        "cache.size(); cache.invalidate(user_id='u1'); cache.cleanup_expired()",
        "asyncio.run(begin())",
        "threading.Thread(target=run_forever, daemon=True).start(); begun.wait()",
        "pass",
    ],
)
def test_the_interpreter_exits_at_once_whatever_is_running(pending):
    code = (
        FILL
        + f"""
asyncio.run(cache.set_batch([("u", "read", str(i), ALLOW) for i in range(80_000)]))

async def begin():
    tasks = [asyncio.create_task(cache.size()) for _ in range(50)]
    await asyncio.sleep(0)

begun = threading.Event()

async def forever():
    while True:
        await cache.size()
        begun.set()

def run_forever():
    asyncio.run(forever())

{pending}
print("leaving", flush=True)
"""
    )
    with started(code) as process:
        assert process.stdout.readline() == "leaving\n"
        _, err = process.communicate(timeout=2)
    assert (process.returncode, err) == (0, "")


def test_importing_starts_no_thread_and_imports_no_other_package():
    out = run(
        """
        import os, sys, threading
        import sark_cache
        names = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
        print(sorted(name for name in names if not name.startswith(("_", "$"))))
        tasks = "/proc/self/task"
        print(len(os.listdir(tasks)) if os.path.isdir(tasks) else threading.active_count())
        """
    )
    measured_by = {"sitecustomize", "usercustomize", "coverage"}
    assert [name for name in ast.literal_eval(out[0]) if name not in measured_by] == ["sark_cache"]
    assert out[1] == "1"


@pytest.fixture
def without_module(tmp_path):
    """A copy of the package without the compiled module, as on platforms without a wheel."""
    copy = tmp_path / "sark_cache"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    return tmp_path


def test_without_the_compiled_module_the_package_imports_and_errors_name_what_is_missing(
    without_module,
):
    assert run(
        """
        import sark_cache
        from sark_cache import *
        print(is_rust_cache_available())
        for make in (RustPolicyCache, AsyncCache, get_rust_policy_cache, lambda: Stamp()):
            try:
                make()
            except RuntimeError as error:
                print("Rust cache extensions not available" in str(error))
                print("pip install" in str(error))
                print(type(error.__cause__).__name__)
        print(issubclass(RustPolicyCache, object), CacheMetrics().miss_rate)
        """,
        path=without_module,
    ) == ["False", *["True", "True", "ModuleNotFoundError"] * 4, "True 100.0"]


def test_the_package_takes_no_numbers_from_the_generator_that_programs_share():
    """A program that needs its numbers in a known order has seeded it, or runs under Hypothesis."""
    assert run(
        """
import asyncio, logging, random
from sark_cache import RustPolicyCache, TieredPolicyCache
logging.getLogger("sark_cache").addHandler(logging.NullHandler())

async def main():
    tiered = TieredPolicyCache("redis://localhost:1")
    native = RustPolicyCache()

    async def fails(*request):
        raise ConnectionError

    native.set_revalidate_callback(fails)
    await native.set("a", "b", "c", {"allow": True}, ttl_seconds=0.3, sensitivity="critical")
    before = random.getstate()
    for _ in range(3):
        assert not await tiered.confirm()
        await asyncio.sleep(0.1)
        await native.get("a", "b", "c", sensitivity="critical")
    print(random.getstate() == before)
    await tiered.close()

asyncio.run(main())
"""
    ) == ["True"]
