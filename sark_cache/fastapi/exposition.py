"""The route that Prometheus scrapes. Extra `[prometheus]`."""

from fastapi import Response

from sark_cache.fastapi.installation import InstallationDep, PolicyCacheDep
from sark_cache.instrumentation.prometheus import PolicyCacheCollector

# isort: split
# After the module whose error says how to install it.
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest


async def exposition(cache: PolicyCacheDep, installation: InstallationDep) -> Response:
    """Returns the metrics of this process, by backend, in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(PolicyCacheCollector(cache, flags=installation.flags))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
