"""Middleware that lets only allowed requests reach an ASGI app.

It works with every framework that runs under ASGI, and needs none. `pip install
'sark-cache[settings]'` brings what it needs to create its cache from the environment.
"""

from sark_cache.asgi.middleware import PolicyMiddleware
from sark_cache.asgi.rules import Rule

__all__ = ["PolicyMiddleware", "Rule"]
