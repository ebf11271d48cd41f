"""The README, the pages and the report agree, or `nox -s lint` fails."""

import copy
import json
import re
from itertools import combinations, pairwise
from xml.etree import ElementTree as ET

import pytest

from report import charts, contents, page, saved, tables
from report.__main__ import check
from report.figures import HIT, TABLES, number
from report.subjects import kind_of, ordered, style_of

REPORT = saved.load()
README = saved.ROOT / "README.md"
TEXT, NAMES = README.read_text(encoding="utf-8"), tables.PAGES[README]
MARKDOWN, PIECES = page.page(REPORT)
HERE = {
    "began": "2100-01-01 00:00",
    "machine": REPORT["machine"],
    "run": {"python": "CPython 3.11.0", "server": "Redis 7.0.0", "packages": {}},
}


def of_another_run(name):
    """Returns the report after a benchmark was twice as slow."""
    report = copy.deepcopy(REPORT)
    for numbers in report["benchmarks"][name]["subjects"].values():
        for metric in numbers:
            numbers[metric] *= 2
    return report


def measured(name, group="hit"):
    subjects = {"a": {"median_us": 1.23456789, "ratio": 1.0}}
    return {"name": name, "group": group, "title": "It.", "subjects": subjects}


def complaints(text, report=REPORT):
    return list(tables.complaints(text, NAMES, report))


# The tables of the pages


def test_the_committed_files_agree():
    assert check() == []


def test_a_number_changed_by_hand_is_found():
    table = tables.made("cost", REPORT)
    digit = next(at for at in range(table.index("µs"), 0, -1) if table[at].isdigit())
    other = str((int(table[digit]) + 1) % 10)
    changed = TEXT.replace(table, table[:digit] + other + table[digit + 1 :])
    (found,) = complaints(changed)
    assert "the table 'cost' is not that of the report" in found


@pytest.mark.parametrize("path", [path for path, names in tables.PAGES.items() if "cost" in names])
def test_tables_of_an_earlier_report_are_found(path):
    text = path.read_text(encoding="utf-8")
    assert list(tables.complaints(text, tables.PAGES[path], of_another_run("test_lone_miss")))


def test_the_tables_are_made_from_the_report():
    report = of_another_run("test_lone_miss")
    assert complaints(tables.with_tables(TEXT, report), report) == []


@pytest.mark.parametrize(
    "figure",
    ["0.111 µs", "12,345 ns", "111.5 ×", "99.99 %", "2–9 ms", "7 bytes", "3 GiB", "a nanosecond"],
)
def test_a_figure_in_the_text_that_the_report_lacks_is_found(figure):
    (found,) = complaints(f"{TEXT}\nA hit takes {figure}.\n")
    assert figure in found


def test_words_must_hold_in_the_report():
    report = copy.deepcopy(REPORT)
    report["benchmarks"][HIT[0]]["subjects"][HIT[1]]["median_us"] = 3.0
    found = complaints(tables.with_tables(TEXT, report), report)
    assert "'under a microsecond' is not in the report" in found


@pytest.mark.parametrize("name", TABLES)
def test_a_figure_that_was_not_measured_is_left_out(name):
    assert tables.made(name, {**REPORT, "benchmarks": {}}) == ""


def test_a_page_without_its_tables_is_found():
    (found, *_) = complaints("# sark-cache\n")
    assert "it needs the tables ('cost', 'machine')" in found


# The saved report


def test_a_partial_run_leaves_the_other_results():
    new = saved.merged(REPORT, [measured("test_new")], HERE)
    benchmarks = new["benchmarks"]
    assert {name: benchmarks[name] for name in REPORT["benchmarks"]} == REPORT["benchmarks"]
    assert benchmarks["test_new"]["run"] == HERE["began"]
    assert benchmarks["test_new"]["subjects"] == {"a": {"median_us": 1.23457, "ratio": 1.0}}
    assert set(new["runs"]) == {*REPORT["runs"], HERE["began"]}


def test_a_run_without_results_is_removed():
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
    assert (tmp_path / "report.json").read_bytes() == saved.REPORT.read_bytes()


def test_a_subject_is_one_line_of_the_file():
    lines = saved.REPORT.read_text(encoding="utf-8").splitlines()
    for benchmark in REPORT["benchmarks"].values():
        for subject, numbers in benchmark["subjects"].items():
            line = f"{json.dumps(subject, ensure_ascii=False)}: {json.dumps(numbers)}"
            assert any(line == each.strip().rstrip(",") for each in lines)


# The benchmark page


def test_every_number_of_the_report_is_on_the_page():
    shown = "".join(PIECES.values())
    for benchmark in REPORT["benchmarks"].values():
        for numbers in benchmark["subjects"].values():
            assert page.cells(numbers, dict.fromkeys(numbers)) in shown.replace("<td></td>", "")


def test_a_benchmark_without_a_place_on_the_page_is_refused():
    report = saved.merged(REPORT, [measured("test_new")], HERE)
    assert contents.without_place(report) == ["test_new"]
    with pytest.raises(ValueError, match="test_new"):
        page.page(report)


def test_every_heading_has_its_chart():
    parts = re.split(r"^### ", MARKDOWN, flags=re.MULTILINE)[1:]
    for part in parts:
        places = re.findall(page.PLACE.format(r"\d+"), part)
        assert places, part
        assert all("<svg" in PIECES[place] for place in places)
    assert len(parts) == len({part.splitlines()[0] for part in parts})


def test_a_tab_shows_the_benchmark_of_its_own_parameter():
    (part,) = contents.PAGE["Threads"]
    only_hits = contents.members_of(part, "0", REPORT["benchmarks"])
    assert list(only_hits.values()) == [REPORT["benchmarks"]["test_threads[0]"]]


def test_entries_of_a_chart_are_in_order():
    part = contents.PAGE["Many entries"][0]
    entries = contents.members_of(part, "uniform", REPORT["benchmarks"])
    assert list(entries) == ["1,000", "10,000", "100,000", "1,000,000"]


def test_the_page_fetches_nothing():
    text = MARKDOWN + "".join(PIECES.values())
    assert not any(it in text for it in ("<script", "<link", "<img", "@import", "url(", "href="))


def test_charts_are_well_formed_and_say_what_they_are():
    for piece in PIECES.values():
        for chart in re.findall(r"<svg.*?</svg>", piece):
            root = ET.fromstring(chart)  # noqa: S314 - made here
            assert root.get("role") == "img"
            assert root.get("aria-label")


def test_the_same_report_makes_the_same_page():
    assert page.page(copy.deepcopy(REPORT)) == (MARKDOWN, PIECES)


# The rows of the charts


def subjects():
    return {
        subject for benchmark in REPORT["benchmarks"].values() for subject in benchmark["subjects"]
    }


def test_ours_are_named_for_what_they_measure():
    for name, benchmark in REPORT["benchmarks"].items():
        if benchmark["group"] == "set":
            ours = [one for one in benchmark["subjects"] if kind_of(one).name == "ours"]
            assert ours == ["RustPolicyCache.set()", "AsyncCache.set()"], name


def test_ours_alone_have_our_hue():
    ours = {subject for subject in subjects() if style_of(subject).startswith("ours-")}
    assert all(
        re.match("RustPolicyCache|AsyncCache|PolicyCache|cached: |heartbeat", one) for one in ours
    )
    others = subjects() - ours
    assert not any(re.match("RustPolicyCache|AsyncCache|PolicyCache", one) for one in others)


def test_rows_have_one_order_on_the_whole_page():
    before = set()
    for benchmark in REPORT["benchmarks"].values():
        before |= set(combinations(ordered(benchmark["subjects"]), 2))
    assert not {(one, other) for one, other in before if (other, one) in before}


def test_the_value_beside_a_row_is_that_of_the_report():
    subjects = REPORT["benchmarks"]["test_hit"]["subjects"]
    root = ET.fromstring(charts.boxes(subjects, "It."))  # noqa: S314 - made here
    for group in root.iter("g"):
        label, *values = (text.text for text in group.iter("text"))
        numbers = subjects[label]
        assert values == [number(numbers["median_us"]), f"{number(numbers['ratio'])} ×"]


def test_a_bar_is_as_long_as_its_value():
    drawn = charts.bars({"a": {"median_ms": 2.0}, "b": {"median_ms": 8.0}}, "median_ms", "It.")
    root = ET.fromstring(drawn)  # noqa: S314 - made here
    short, long = (
        float(bar.get("width")) for bar in root.iter("rect") if bar.get("class") == "fill"
    )
    assert long == pytest.approx(4 * short, abs=0.5)


def test_labels_of_lines_do_not_overlap():
    places = charts.spread(dict.fromkeys("abcdef", 100.0) | {"g": 390.0}, 16, 348)
    apart = sorted(places.values())
    assert all(b - a >= charts.APART - 0.1 for a, b in pairwise(apart))
    assert apart[0] >= 16
    assert apart[-1] <= 348
