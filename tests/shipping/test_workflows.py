"""The parts of CI that one machine can check: syntax, sessions, platforms, and duplicated facts."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from itertools import chain, product
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
README = (ROOT / "README.md").read_text("utf-8")
HOME = (ROOT / "docs" / "index.md").read_text("utf-8")
CI_RUN = (ROOT / ".ci" / "run").read_text("utf-8")

NATIVE = {
    "ubuntu-24.04": ("linux", "x86_64"),
    "ubuntu-24.04-arm": ("linux", "aarch64"),
    "macos-15-intel": ("macos", "x86_64"),
    "macos-15": ("macos", "arm64"),
    "windows-2025": ("windows", "AMD64"),
    "windows-11-arm": ("windows", "ARM64"),
}
"""The system and the processor of a runner, by its label."""

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def parsed(path):
    return yaml.safe_load(path.read_text("utf-8"))


def jobs(path):
    return parsed(path)["jobs"]


def steps(path):
    return [step for job in jobs(path).values() for step in job["steps"]]


def run(*command, **environment):
    """Runs a tool of this environment and returns its output; fails with the output on an error."""
    tool, *arguments = command
    ended = subprocess.run(
        [Path(sys.executable).with_name(tool), *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 0, f"{shlex.join(command)}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def sessions_called(script):
    """Returns the sessions that a script has nox run."""
    calls = re.findall(r"\bnox -s ((?:[\w${}.]+ ?)+)", script)
    return [session for call in calls for session in call.split()]


@cache
def sessions():
    """Returns every session of the noxfile, and whether a plain `nox` runs it."""
    listed = re.findall(r"^([*-]) (\w+) ->", run("nox", "--list"), flags=re.MULTILINE)
    return {name: mark == "*" for mark, name in listed}


def default_sessions():
    return {session for session, is_default in sessions().items() if is_default}


# Syntax


@every_workflow
def test_a_workflow_is_valid(path):
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(path))


def test_the_configuration_of_dependabot_is_valid():
    path = ROOT / ".github" / "dependabot.yml"
    run("check-jsonschema", "--builtin-schema", "vendor.dependabot", str(path))


def test_zizmor_finds_nothing_wrong():
    # With a token it also asks GitHub whether a commit is of that repository, and an action known
    # as bad.
    online = [] if "GH_TOKEN" in os.environ else ["--offline"]
    run("zizmor", "--quiet", "--persona=pedantic", *online, str(ROOT))


@every_workflow
def test_every_job_has_a_time_limit(path):
    assert [name for name, job in jobs(path).items() if "timeout-minutes" not in job] == []


@every_workflow
def test_every_job_declares_its_permissions(path):
    assert parsed(path)["permissions"] == {}
    assert [name for name, job in jobs(path).items() if "permissions" not in job] == []


@every_workflow
def test_a_newer_run_cancels_the_older_one(path):
    expected = "${{ github.ref_type != 'tag' }}" if path.name == "wheels.yml" else True
    assert parsed(path)["concurrency"]["cancel-in-progress"] == expected


def test_an_action_is_pinned_to_one_commit_with_its_version():
    uses = [
        line.split("uses:")[1].strip()
        for path in WORKFLOWS
        for line in path.read_text("utf-8").splitlines()
        if "uses:" in line
    ]
    form = re.compile(r"([\w-]+/[\w-]+)(?:/[\w-]+)?@([0-9a-f]{40}) # v\d+\.\d+\.\d+")
    found = [form.fullmatch(use) for use in uses]
    assert None not in found, uses
    pins = {(match[1], match[2]) for match in found}
    assert len(pins) == len({action for action, _ in pins}), sorted(pins)


# Sessions


@every_workflow
def test_every_session_that_it_calls_exists(path):
    called = sessions_called("\n".join(step.get("run", "") for step in steps(path)))
    assert set(called) <= sessions().keys()


def test_ci_runs_every_session_of_a_plain_nox():
    called = sessions_called("\n".join(step.get("run", "") for step in steps(ci())))
    assert default_sessions() <= set(called)


def test_one_machine_runs_every_session_of_a_plain_nox_once():
    called = sessions_called(re.sub(r"^#.*$|grep .*", "", CI_RUN, flags=re.MULTILINE))
    (command,) = re.findall(r"'(.*nox -s tests)'", CI_RUN)
    assert f"\n{command}\n" in README
    assert sorted(["tests", *called]) == sorted(default_sessions())


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_every_session_that_a_document_names_exists(document):
    text = (ROOT / document).read_text("utf-8")
    assert set(sessions_called(text)) <= sessions().keys()


# Pythons and platforms


def ci():
    return next(path for path in WORKFLOWS if path.name == "ci.yml")


def wheel_jobs():
    """Returns the job that builds wheels, once for each row of its matrix."""
    path = next(path for path in WORKFLOWS if path.name == "wheels.yml")
    job = jobs(path)["wheels"]
    return [(row, job) for row in job["strategy"]["matrix"]["include"]]


def classified():
    """Returns the Pythons of pyproject.toml's classifiers."""
    prefix = "Programming Language :: Python :: 3."
    found = [it for it in PROJECT["project"]["classifiers"] if it.startswith(prefix)]
    return ["3." + it.removeprefix(prefix) for it in found]


def by_age(version):
    return [int(part) for part in version.split(".")]


def built(row, job):
    """Returns the wheels that cibuildwheel builds for a row, with the row's environment."""
    (environment,) = (step["env"] for step in job["steps"] if "cibuildwheel" in step.get("run", ""))
    given = {
        name: re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda match: row[match[1]], value)
        for name, value in environment.items()
    }
    return run("cibuildwheel", "--print-build-identifiers", **given).split()


def claimed():
    """Yields the wheels of the table on the first page, by cibuildwheel's names for them."""
    table = HOME.split("<!-- wheels -->")[1].split("<!-- /wheels -->")[0]
    head, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()
    )
    (first, last), free = re.search(r"(3\.\d+)–(3\.\d+)", head[0]).groups(), r"3\.\d+t"
    pythons = [f"cp3{minor}" for minor in range(by_age(first)[1], by_age(last)[1] + 1)]
    pythons += [f"cp{name.replace('.', '')}" for name in re.findall(free, head[0])]
    systems = {
        "glibc": ("manylinux", str.lower),
        "musl": ("musllinux", str.lower),
        "macOS": ("macosx", str.lower),
        "Windows": ("win", lambda name: name.replace("x86_64", "amd64")),
    }
    for system, architectures in rows:
        tag, spelt = next(found for name, found in systems.items() if name in system)
        for python, architecture in product(pythons, architectures.split(", ")):
            yield f"{python}-{tag}_{spelt(architecture)}"


def test_the_wheels_are_those_that_the_first_page_lists():
    wheels = list(chain.from_iterable(built(row, job) for row, job in wheel_jobs()))
    assert sorted(wheels) == sorted(claimed())


def test_the_linux_wheels_need_the_systems_that_the_documents_name():
    images = PROJECT["tool"]["cibuildwheel"]["linux"]
    for name, kind, tag in (("glibc", "manylinux", "_2_28"), ("musl", "musllinux", "_1_2")):
        of_kind = {value for key, value in images.items() if key.startswith(f"{kind}-")}
        assert of_kind == {kind + tag}
        needed = f"{name} ≥ {tag[1:].replace('_', '.')}"
        assert needed in README
        assert needed in HOME


def test_every_wheel_is_built_on_its_own_platform():
    for row, _ in wheel_jobs():
        assert NATIVE[row["runner"]] == (row["platform"], row["arch"])


def test_every_wheel_is_built_with_a_profile():
    settings = PROJECT["tool"]["cibuildwheel"]
    for of in (settings, settings["linux"]):
        assert of["environment"]["MATURIN_PGO"] == "1"
        assert "llvm-tools" in of["before-all"]


def test_the_classifiers_name_the_pythons_that_there_are_wheels_for():
    pythons = {re.match(r"cp3(\d+)-", name) for name in claimed()} - {None}
    assert set(classified()) == {f"3.{match[1]}" for match in pythons}


def test_ci_tests_on_the_oldest_python_that_is_allowed():
    versions = jobs(ci())["tests"]["strategy"]["matrix"]["python"]
    oldest = min(versions, key=by_age)
    assert PROJECT["project"]["requires-python"] == f">={oldest}"
    assert oldest == min(classified(), key=by_age)


@every_workflow
def test_every_python_that_it_sets_up_is_supported(path):
    for job in jobs(path).values():
        of_matrix = job.get("strategy", {}).get("matrix", {}).get("python", [])
        given = [
            step["with"]["python-version"]
            for step in job["steps"]
            if "with" in step and "python-version" in step["with"]
        ]
        versions = [*of_matrix, *(version for version in given if "matrix" not in version)]
        assert set(versions) <= set(classified())


# Facts that have one place


def test_every_hook_is_local_and_its_tools_come_from_the_index_at_one_version():
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    assert {repository["repo"] for repository in configuration["repos"]} == {"local"}
    hooks = [hook for repository in configuration["repos"] for hook in repository["hooks"]]
    tools = {it for hook in hooks for it in hook.get("additional_dependencies", [])}
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", tool) for tool in tools), tools
    assert len(tools) == len({tool.split("==")[0] for tool in tools}), tools


def test_the_hook_runner_accepts_the_hooks():
    run("prek", "validate-config", ".pre-commit-config.yaml")


def test_the_version_is_written_in_cargo_toml_alone():
    assert "version" in PROJECT["project"]["dynamic"]
    for manifest in ROOT.glob("rust/sark-cache-*/Cargo.toml"):
        package = tomllib.loads(manifest.read_text("utf-8"))["package"]
        assert package["version"] == {"workspace": True}
