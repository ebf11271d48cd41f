"""Exporters of the metrics and traces of a cache. Each file is one integration.

Everything is read from the cache when it is collected: nothing is added to a hit.
"""
