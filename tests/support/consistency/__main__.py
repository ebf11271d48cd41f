"""The command: `python -m consistency --help`, with `tests/support` on the path."""

import argparse
import asyncio
import json
import sys
from pathlib import Path

from consistency.faults import BY_NAME
from consistency.run import Plan, run
from servers import partition


def main():
    """Runs each fault with a fleet of its own. Exits with 1 if there was a violation."""
    options = _parser().parse_args()
    names = options.fault or [name for name in BY_NAME if name not in options.without]
    names = _with_network(names)
    reports = {}
    for name in names:
        plan = Plan(
            cache=options.cache,
            faults=(BY_NAME[name],),
            seconds=options.seconds,
            max_staleness=options.max_staleness,
            revokers_cache=options.revokers_cache,
            workers=options.workers,
            revokers=options.revokers,
            revocations_per_second=options.revocations_per_second,
            pause=options.pause,
            seed=options.seed,
        )
        _write(f"{name}, {options.cache}")
        report = asyncio.run(run(plan, lambda line: _write(f"    {line}")))
        _write(str(report))
        reports[name] = report.figures()
        if options.save:  # after each fault, so that an interrupted run has its figures
            options.save.write_text(json.dumps(reports, indent=2) + "\n", encoding="utf-8")
    broken = [name for name, figures in reports.items() if figures["violations"]]
    _write(f"with violations: {', '.join(broken) or 'none'}")
    sys.exit(1 if broken else 0)


def _with_network(names):
    """Enters a network of this process alone if a fault needs it, or leaves out such faults."""
    needing = [name for name in names if BY_NAME[name].has_own_network]
    if not needing:
        return names
    if not partition.can_be_made():
        _write(f"left out, because it takes root, ip and unshare: {', '.join(needing)}")
        return [name for name in names if name not in needing]
    if not partition.is_own_network():
        partition.enter_own_network([sys.executable, "-m", "consistency", *sys.argv[1:]])
    partition.prepare_own_network()
    return names


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m consistency",
        description="Checks that no process serves a decision after its revocation.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--cache",
        default="consistency.factories:shared",
        metavar="MODULE:FUNCTION",
        help="the cache to check: a function as in consistency.factories",
    )
    add(
        "--revokers-cache",
        metavar="MODULE:FUNCTION",
        help="the cache of the processes that only revoke, if it is another one",
    )
    add(
        "--max-staleness",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="the time for which a cache may serve older decisions after a revocation is recorded",
    )
    add("--seconds", type=float, default=60.0, help="the time for each fault")
    add("--fault", action="append", choices=BY_NAME, help="only this fault; may be repeated")
    add(
        "--without",
        action="append",
        choices=BY_NAME,
        default=[],
        help="all faults but this one; may be repeated",
    )
    add("--workers", type=int, default=4, help="processes that answer and revoke")
    add("--revokers", type=int, default=1, help="processes that only revoke")
    add("--revocations-per-second", type=float, default=5.0, help="by each process")
    add("--pause", type=float, default=0.01, help="seconds between the requests of a task")
    add("--seed", type=int, default=0, help="repeats the lengths and choices of faults")
    add("--save", type=Path, metavar="FILE", help="writes the figures as JSON")
    return parser


def _write(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
