"""Metrics and traces of a cache, for those who collect them; each file is one integration.

Everything is read from the cache when it is collected: nothing is added to a hit.
"""
