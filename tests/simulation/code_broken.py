"""A deployment with a mistake: sessions that began before it are sent a way that no journal holds."""

from collections.abc import Awaitable, Callable

from orchestrator import SessionContext

Step = Callable[[SessionContext, str], Awaitable[str]]


async def handler(ctx: SessionContext, step: Step) -> list[str]:
    """Do three things, the second under its new name; for those that began before, under a wrong one."""
    second = "new" if ctx.patched("rename") else "wrong"
    return [await step(ctx, "first"), await step(ctx, second), await step(ctx, "last")]
