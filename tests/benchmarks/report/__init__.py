"""The report: the results of the benchmarks as a file, a page of the site, and tables on pages.

`docs/benchmarks/report.json` is the only source; everything else is made from it, by the standard
library alone, so that any checkout can check its pages and build its site.
"""
