"""Draws docs/assets/dashboard.svg: the panels of the Grafana dashboard with the data of a real run.

`python tests/docs/dashboard.py [SECONDS]`, with `PYTHONPATH=tests/support`, serves an app under
load, with Redis next to it, a rollout in steps, revocations, and an outage of the server. A
Prometheus server (Debian: `apt-get install prometheus`) scrapes it and answers the queries of
docs/grafana/sark-cache.json. matplotlib draws the answers at the positions of the dashboard's
panels.
"""

import asyncio
import contextlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import httpx
import matplotlib as mpl
import numpy as np
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm
from matplotlib.ticker import EngFormatter, FuncFormatter, MultipleLocator, NullFormatter

from sark_cache import CacheSettings
from sark_cache.fastapi import (
    FromRequest,
    PolicyCacheDep,
    authorize,
    policy_cache_lifespan,
    policy_cache_router,
)
from servers import HOST, Server, free_port

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "docs/grafana/sark-cache.json"
PICTURE = ROOT / "docs/assets/dashboard.svg"

SCRAPE_SECONDS = 2
RATE_SECONDS = 16
USERS, DOCUMENTS, CLIENTS = 40, 20, 6
POLICY = "documents"
COLUMNS, ROWS = 24, 65
INCHES = (0.56, 0.36)
"""The size of one cell of Grafana's grid."""


async def evaluate(user, action, resource, context):
    """Evaluates a decision slowly, and fails now and then."""
    await asyncio.sleep(random.lognormvariate(-5.3, 0.6))
    if random.random() < 0.002:
        raise HTTPException(503, "the policy engine is away")
    return {"allow": True, "reason": "owner"}


def gateway(settings):
    """Returns the app that is observed."""
    app = FastAPI(lifespan=policy_cache_lifespan(settings, revalidate={POLICY: evaluate}))
    app.include_router(policy_cache_router(admin=lambda: None, prometheus=True))
    may = authorize(
        evaluate,
        user=FromRequest(lambda request: request.headers["x-user"]),
        sensitivity="confidential",
        ttl_seconds=30,
        policy=POLICY,
    )

    @app.get("/documents/{document}", dependencies=[Depends(may)])
    async def read(document: int) -> int:
        return document

    @app.get("/lists/{number}")
    async def several(number: int, cache: PolicyCacheDep, x_user: Annotated[str, Header()]) -> int:
        asked = [(x_user, "GET", f"/documents/{one}", None) for one in range(number)]
        decisions = await cache.get_batch(asked, policy=POLICY)
        return sum(found is not None for found in decisions)

    return app


@contextlib.asynccontextmanager
async def served(app, port):
    server = uvicorn.Server(uvicorn.Config(app, HOST, port, log_level="error"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.05)
    yield
    server.should_exit = True
    await task


@contextlib.contextmanager
def prometheus(target):
    """Starts a Prometheus server that scrapes the app; returns its URL."""
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        scrape = {
            "job_name": "gateway",
            "metrics_path": "/policy-cache/metrics/prometheus",
            "static_configs": [{"targets": [target]}],
        }
        interval = f"{SCRAPE_SECONDS}s"
        configuration = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval},
            "scrape_configs": [scrape],
        }
        path = Path(directory, "prometheus.yml")
        path.write_text(json.dumps(configuration), encoding="utf-8")  # JSON is YAML
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={path}",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address={HOST}:{port}",
                "--log.level=error",
            ]
        )
        try:
            yield f"http://{HOST}:{port}"
        finally:
            process.terminate()
            process.wait()


async def ask(client, until, rank):
    """Runs one client, which requests some decisions more often than others, and waits a little."""
    choose = random.Random(rank)
    weights = [1 / place for place in range(1, USERS + 1)]
    while time.monotonic() < until:
        user = choose.choices(range(USERS), weights)[0]
        kind = "lists" if choose.random() < 0.05 else "documents"
        number = choose.randrange(1, DOCUMENTS)
        with contextlib.suppress(httpx.HTTPError):
            await client.get(f"/{kind}/{number}", headers={"x-user": f"user-{user}"})
        await asyncio.sleep(choose.expovariate(25))


async def events(client, redis, seconds):
    """Runs the events: a rollout in steps, revocations, and a server that stops answering."""
    rollout = {0.15: 25, 0.35: 50, 0.7: 100}
    begun = time.monotonic()
    paused = resumed = False
    while (gone := (time.monotonic() - begun) / seconds) < 1:
        for share in [share for share in rollout if share <= gone]:
            percentage = {"percentage": rollout.pop(share)}
            await client.put("/policy-cache/rollouts/rust_cache", json=percentage)
        if not paused and gone >= 0.5:
            redis.pause()
            paused = True
        if not resumed and gone >= 0.56:
            redis.resume()
            resumed = True
        if not 0.48 < gone < 0.6 and random.random() < 0.2:
            user = f"user-{int(random.paretovariate(1)) % USERS}"
            await client.post("/policy-cache/invalidate", json={"user_id": user})
        await asyncio.sleep(1)


async def run(seconds, port, redis):
    settings = CacheSettings(redis_url=redis.url, cleanup_interval=5, cache_max_size=3000)
    async with (
        served(gateway(settings), port),
        httpx.AsyncClient(base_url=f"http://{HOST}:{port}", timeout=30) as client,
    ):
        until = time.monotonic() + seconds
        clients = [ask(client, until, rank) for rank in range(CLIENTS)]
        await asyncio.gather(*clients, events(client, redis, seconds))


# Drawing


def asked(expression):
    """Returns the query as Grafana sends it, with every variable at All."""
    asked_for_all = re.sub(r'"\$(job|instance|backend)"', '".*"', expression)
    return asked_for_all.replace("$__rate_interval", f"{RATE_SECONDS}s")


def series(url, target, begin, end):
    """Yields the series that Prometheus returns: labels of the legend, times, values."""
    question = {"query": asked(target["expr"]), "start": begin, "end": end, "step": SCRAPE_SECONDS}
    answer = httpx.get(f"{url}/api/v1/query_range", params=question).raise_for_status().json()
    for found in answer["data"]["result"]:
        labels = found["metric"]
        legend = re.sub(
            r"\{\{(\w+)\}\}", lambda name, of=labels: of.get(name[1], ""), target["legendFormat"]
        )
        times, values = zip(*found["values"], strict=True)
        yield legend.strip(), np.array(times) - begin, np.array(values, dtype=float)


UNITS = {
    "percentunit": lambda value: f"{value:.0%}",
    "percent": lambda value: f"{value:.0f} %",
    "s": EngFormatter("s", places=0).format_data,
    "reqps": lambda value: f"{value:.3g}/s",
    "ops": lambda value: f"{value:.3g}/s",
    "short": lambda value: f"{value:,.6g}",
}


def draw(url, begin, end):
    """Draws the dashboard from its file."""
    mpl.rcParams.update({"font.size": 7.5, "svg.fonttype": "none", "svg.hashsalt": "dashboard"})
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    figure = plt.figure(figsize=(COLUMNS * INCHES[0], ROWS * INCHES[1]))
    for panel in panels:
        at = panel["gridPos"]
        left, top = at["x"] / COLUMNS, 1 - at["y"] / ROWS
        if panel["type"] == "row":
            figure.text(0.008, top - 0.7 / ROWS, panel["title"], weight="bold", size=9)
            continue
        box = (
            *(left + 1.3 / COLUMNS, top - (at["h"] - 0.9) / ROWS),
            *((at["w"] - 1.9) / COLUMNS, (at["h"] - 2.0) / ROWS),
        )
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], loc="left", size=8)
        found = [one for target in panel["targets"] for one in series(url, target, begin, end)]
        if not found:
            message = f"the panel {panel['title']!r} is empty"
            raise RuntimeError(message)
        unit = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
        {"stat": stat, "heatmap": heatmap, "timeseries": lines}[panel["type"]](axes, found, unit)
    return figure


def stat(axes, found, unit):
    axes.axis("off")
    known = [(legend, values[np.isfinite(values)]) for legend, _, values in found]
    known = [(legend, values) for legend, values in known if values.size]
    for place, (legend, values) in enumerate(known):
        x = (place + 0.5) / len(known)
        axes.text(x, 0.5, unit(values[-1]), size=15, ha="center", transform=axes.transAxes)
        axes.text(x, 0.12, legend, ha="center", transform=axes.transAxes, color="0.4")


def lines(axes, found, unit):
    for legend, times, values in found:
        axes.plot(times, values, label=legend)
    known = np.concatenate([values[np.isfinite(values)] for _, _, values in found])
    if unit is UNITS["s"]:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, known.max(initial=0) * 1.08 or 1)
    finish(axes, unit)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), frameon=False, fontsize=6.5)
    box = axes.get_position()
    axes.set_position([box.x0, box.y0, box.width * 0.72, box.height])


def heatmap(axes, found, _unit):
    ordered = sorted(found, key=lambda one: float(one[0]))
    times = ordered[0][1]
    cumulative = np.vstack([np.resize(values, len(times)) for _, _, values in ordered])
    counts = np.diff(cumulative, axis=0, prepend=0).clip(min=0)[:-1]
    bounds = [float(legend) for legend, _, _ in ordered[:-1]]
    axes.pcolormesh(
        times,
        bounds,
        np.where(counts > 0, counts, np.nan),
        norm=LogNorm(),
        cmap="viridis",
        shading="nearest",
        rasterized=True,
    )
    axes.set_yscale("log", base=2)
    finish(axes, UNITS["s"])


def finish(axes, unit):
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: unit(value)))
    axes.xaxis.set_major_locator(MultipleLocator(60))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 60:.0f} min"))
    axes.grid(visible=True, color="0.9")


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 300.0
    port = free_port()
    with Server() as redis, prometheus(f"{HOST}:{port}") as url:
        begin = time.time() + RATE_SECONDS
        asyncio.run(run(seconds, port, redis))
        figure = draw(url, begin, time.time() - SCRAPE_SECONDS)
    figure.savefig(PICTURE, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()
