"""The file that holds the report: the last results of each benchmark, and the run they are from.

    machine: {processor, cores, memory_gib, system}
    runs: {run: {python, server, packages: {name: version}}}
    benchmarks: {name: {group, title, run, rounds, per_call, subjects: {subject: {metric: number}}}}

A run is named by the time at which it began. `rounds` and `per_call` exist if the subjects took
turns. A partial run keeps the results of the other benchmarks, so all must be of one machine.
"""

import json
from pathlib import Path

ROOT = Path(__file__).parents[3]
REPORT = ROOT / "docs" / "benchmarks" / "report.json"


def load(path: Path = REPORT) -> dict:
    """Returns the saved report; an empty one before the first run."""
    if path == REPORT and not path.exists():
        return {"machine": None, "runs": {}, "benchmarks": {}}
    return json.loads(path.read_text(encoding="utf-8"))


def save(report: dict, path: Path = REPORT) -> None:
    """Writes the report, one subject a line, so that the difference between two runs is short."""
    path.write_text(as_text(report) + "\n", encoding="utf-8")


def as_text(value: object, indent: str = "") -> str:
    """Returns JSON in which each innermost object is one line."""
    if not isinstance(value, dict) or not any(isinstance(it, dict) for it in value.values()):
        return json.dumps(value, ensure_ascii=False)
    inner = indent + " "
    fields = (
        f"{inner}{json.dumps(key, ensure_ascii=False)}: {as_text(it, inner)}"
        for key, it in value.items()
    )
    return "{\n" + ",\n".join(fields) + f"\n{indent}}}"


def of_another_machine(report: dict, environment: dict) -> str | None:
    """Returns an error if the saved report is of another machine than this one."""
    there, here = report["machine"], environment["machine"]
    if there is None or there == here:
        return None
    return f"{REPORT} is of {there}, this is {here}: to begin a report of this machine, delete it"


def merged(
    report: dict, measured: list[dict], environment: dict, there: set[str] | None = None
) -> dict:
    """Returns the report with new results in place of those of the same name.

    `there` names all benchmarks that exist, or is None if that is unknown. Results of any other
    benchmark leave the report.

    Raises:
        ValueError: Two new results have the same name.
    """
    run = environment["began"]
    new = {one["name"]: {"run": run, **entry(one)} for one in measured}
    if len(new) < len(measured):
        message = f"two benchmarks have the same name: {sorted(one['name'] for one in measured)}"
        raise ValueError(message)
    every = {**report["benchmarks"], **new}
    benchmarks = {name: every[name] for name in every if there is None or name in there}
    used = {benchmark["run"] for benchmark in benchmarks.values()}
    runs = {**report["runs"], run: environment["run"]}
    return {
        "machine": environment["machine"],
        "runs": {name: runs[name] for name in sorted(runs) if name in used},
        "benchmarks": dict(sorted(benchmarks.items())),
    }


def entry(measured: dict) -> dict:
    """Returns the results of a benchmark without its name, each number rounded to six digits."""
    subjects = {
        subject: {metric: float(f"{number:.6g}") for metric, number in numbers.items()}
        for subject, numbers in measured["subjects"].items()
    }
    return {**{key: measured[key] for key in measured if key != "name"}, "subjects": subjects}


def ratio_then(report: dict, benchmark: dict, subject: str) -> float | None:
    """Returns the ratio of a subject in another report; None if it has none."""
    there = report["benchmarks"].get(benchmark["name"], {"subjects": {}})
    return there["subjects"].get(subject, {}).get("ratio")


BUILDS = {"with a profile": "profile-guided build", "without a profile": "build without a profile"}


def circumstances(report: dict) -> str:
    """Returns the interpreter, the machine, the build and the days, in one line."""
    machine = report["machine"]
    days = sorted({run.split()[0] for run in report["runs"]})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    pythons = ", ".join(sorted({run["python"] for run in report["runs"].values()}))
    built = sorted({run.get("build", "unknown build") for run in report["runs"].values()})
    builds = ", ".join(BUILDS.get(build, build) for build in built)
    return (
        f"{pythons}, {machine['system']}, {machine['processor']}, {machine['cores']} cores,"
        f" {machine['memory_gib']} GiB, {builds}, {when}"
    )
