"""The report: what the benchmarks measured, as a file, a page, charts and the README's tables.

`docs/benchmarks/report.json` is the only source; everything else is made from it. Only the charts
need more than the standard library, so that any checkout can check that the rest is up to date.
"""
