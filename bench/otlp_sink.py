"""A collector that takes what it is sent: prints its address, and at its end the requests and bytes that came."""

from __future__ import annotations

import asyncio
import os
import signal

from aiohttp import web

from bench.rig import OTHERS_CORE


async def main() -> None:
    """Serve until SIGTERM."""
    os.sched_setaffinity(0, {OTHERS_CORE})
    stop, taken = asyncio.Event(), [0, 0]
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def take(request: web.Request) -> web.Response:
        taken[0] += 1
        taken[1] += len(await request.read())
        return web.Response(content_type="application/x-protobuf")

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/{signal}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await stop.wait()
    print(*taken, flush=True)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
