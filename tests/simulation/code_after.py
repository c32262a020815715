"""The code of the next deployment: each session goes on under the names that it began with."""

from collections.abc import Awaitable, Callable

from orchestrator import SessionContext

Step = Callable[[SessionContext, str], Awaitable[str]]


async def handler(ctx: SessionContext, step: Step) -> list[str]:
    """Do three things, the second under the name that it had when the session began."""
    second = "new" if ctx.patched("rename") else "old"
    return [await step(ctx, "first"), await step(ctx, second), await step(ctx, "last")]
