"""The file that holds the report: of each benchmark its last results, and of which run they are.

    machine: {processor, cores, memory_gib, system}
    runs: {run: {python, server, packages: {name: version}}}
    benchmarks: {name: {group, title, run, rounds, per_call, subjects: {subject: {metric: number}}}}

A run is named for when it began. `rounds` and `per_call` are there if the subjects took turns.
A partial run leaves the other benchmarks' results as they were, so all must be of one machine.
"""

import json
from pathlib import Path

ROOT = Path(__file__).parents[3]
REPORT = ROOT / "docs" / "benchmarks" / "report.json"


def load(path: Path = REPORT) -> dict:
    """What is saved; before the first run, nothing."""
    if path == REPORT and not path.exists():
        return {"machine": None, "runs": {}, "benchmarks": {}}
    return json.loads(path.read_text(encoding="utf-8"))


def save(report: dict, path: Path = REPORT) -> None:
    """One number a line, so that a new run reads well as a change of the file."""
    text = json.dumps(report, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def of_another_machine(report: dict, environment: dict) -> str | None:
    """Why what is measured here can't stand beside what is saved, if it can't."""
    there, here = report["machine"], environment["machine"]
    if there is None or there == here:
        return None
    return f"{REPORT} is of {there}, this is {here}: to begin a report of this one, delete it"


def merged(
    report: dict, measured: list[dict], environment: dict, there: set[str] | None = None
) -> dict:
    """What was measured takes the place of what is saved under the same name.

    `there` names all benchmarks that exist, if that is known: any other leaves the report.
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
    """What is saved of a benchmark under its name; of each number, as much as means something."""
    subjects = {
        subject: {metric: float(f"{number:.6g}") for metric, number in numbers.items()}
        for subject, numbers in measured["subjects"].items()
    }
    return {**{key: measured[key] for key in measured if key != "name"}, "subjects": subjects}


def ratio_then(report: dict, benchmark: dict, subject: str) -> float | None:
    """The ratio that another report has for this."""
    there = report["benchmarks"].get(benchmark["name"], {"subjects": {}})
    return there["subjects"].get(subject, {}).get("ratio")


def circumstances(report: dict) -> str:
    """On what, with what and when all this was measured, in one line."""
    machine = report["machine"]
    days = sorted({run.split()[0] for run in report["runs"]})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    pythons = ", ".join(sorted({run["python"] for run in report["runs"].values()}))
    builds = ", ".join(sorted({run.get("build", "unknown") for run in report["runs"].values()}))
    return (
        f"{pythons}, {machine['system']}, {machine['processor']}, {machine['cores']} cores,"
        f" {machine['memory_gib']} GiB, built {builds}, {when}"
    )
