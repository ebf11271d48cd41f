"""Exporters of the metrics and traces of a cache. Each file is one integration.

They read all numbers from the cache at each collection, so a hit costs nothing more.
"""
