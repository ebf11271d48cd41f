"""What was not measured can't be said: the README, the page and the report agree, or lint fails."""

import copy
import json

import pytest

from report import page, readme, saved
from report.__main__ import README, check
from report.figures import HIT, OF_MORE

TEXT = README.read_text(encoding="utf-8")
REPORT = saved.load()
HERE = {
    "began": "2100-01-01 00:00",
    "machine": REPORT["machine"],
    "run": {"python": "CPython 3.11.0", "server": "Redis 7.0.0", "packages": {}},
}


def of_another_run(name):
    """The report after a benchmark was twice as slow."""
    report = copy.deepcopy(REPORT)
    for numbers in report["benchmarks"][name]["subjects"].values():
        for metric in numbers:
            numbers[metric] *= 2
    return report


def measured(name, group="hit"):
    subjects = {"a": {"median_us": 1.23456789, "ratio": 1.0}}
    return {"name": name, "group": group, "title": "It.", "subjects": subjects}


def test_what_is_committed_agrees():
    assert check() == []


def test_a_number_changed_by_hand_is_found():
    tables = readme.tables(REPORT)
    digit = next(at for at in range(tables.index("µs"), 0, -1) if tables[at].isdigit())
    other = str((int(tables[digit]) + 1) % 10)
    changed = TEXT.replace(tables, tables[:digit] + other + tables[digit + 1 :])
    (found,) = readme.complaints(changed, REPORT)
    assert "its tables are not those of the report" in found


def test_tables_of_an_earlier_report_are_found():
    assert list(readme.complaints(TEXT, of_another_run("test_batch[100]")))


def test_the_tables_are_made_of_the_report():
    report = of_another_run("test_batch[100]")
    assert not list(readme.complaints(readme.with_tables(TEXT, report), report))


@pytest.mark.parametrize(
    "figure",
    ["0.111 µs", "12,345 ns", "111.5 ×", "99.99 %", "2–9 ms", "7 bytes", "3 GiB", "a nanosecond"],
)
def test_a_figure_in_the_text_that_the_report_lacks_is_found(figure):
    (found,) = readme.complaints(f"{TEXT}\nA hit takes {figure}.\n", REPORT)
    assert figure in found


def test_words_must_hold_in_the_report():
    report = copy.deepcopy(REPORT)
    report["benchmarks"][HIT[0]]["subjects"][HIT[1]]["median_us"] = 3.0
    found = readme.complaints(readme.with_tables(TEXT, report), report)
    assert "'about a microsecond' is not in the report" in found


def test_a_figure_that_was_not_measured_is_left_out():
    report = {**REPORT, "benchmarks": {}}
    assert not any(label in readme.tables(report) for label, _ in OF_MORE)


def test_a_readme_without_markers_is_refused():
    with pytest.raises(ValueError, match="needs the lines"):
        readme.with_tables("# sark-cache\n", REPORT)


def test_a_partial_run_leaves_the_other_results():
    new = saved.merged(REPORT, [measured("test_new")], HERE)
    benchmarks = new["benchmarks"]
    assert {name: benchmarks[name] for name in REPORT["benchmarks"]} == REPORT["benchmarks"]
    assert benchmarks["test_new"]["run"] == HERE["began"]
    assert benchmarks["test_new"]["subjects"] == {"a": {"median_us": 1.23457, "ratio": 1.0}}
    assert set(new["runs"]) == {*REPORT["runs"], HERE["began"]}


def test_a_run_of_which_nothing_is_left_is_forgotten():
    one = saved.merged(REPORT, [measured("test_new")], HERE, there={"test_new"})
    again = saved.merged(one, [measured("test_new")], {**HERE, "began": "2100-01-02 00:00"})
    assert list(one["benchmarks"]) == list(again["benchmarks"]) == ["test_new"]
    assert list(again["runs"]) == ["2100-01-02 00:00"]


def test_two_benchmarks_of_one_name_are_refused():
    with pytest.raises(ValueError, match="test_new"):
        saved.merged(REPORT, [measured("test_new"), measured("test_new", "miss")], HERE)


def test_results_of_two_machines_are_not_mixed():
    other = {**HERE, "machine": {**HERE["machine"], "cores": 1_000}}
    assert saved.of_another_machine(REPORT, HERE) is None
    assert "delete it" in saved.of_another_machine(REPORT, other)


def test_a_report_reads_back_as_it_was_saved(tmp_path):
    saved.save(REPORT, tmp_path / "report.json")
    assert saved.load(tmp_path / "report.json") == REPORT
    assert json.loads((tmp_path / "report.json").read_bytes()) == REPORT


def test_a_page_of_another_report_is_found():
    assert page.is_of(REPORT)
    assert not page.is_of(of_another_run(HIT[0]))


def test_the_page_needs_no_other_file():
    text = page.PAGE.read_text(encoding="utf-8")
    assert not any(it in text for it in ("<script", "<link", "<img", "@import", "url(http"))
