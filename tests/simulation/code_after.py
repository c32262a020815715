"""The deployment that mends it: each session goes on under the names that its journal holds."""

from collections.abc import Awaitable, Callable

from orchestrator import SessionContext

Step = Callable[[SessionContext, str], Awaitable[str]]


async def handler(ctx: SessionContext, step: Step) -> list[str]:
    """Do three things, the second under the name that it had when the session began."""
    second = "new" if ctx.patched("rename") else "old"
    return [await step(ctx, "first"), await step(ctx, second), await step(ctx, "last")]
