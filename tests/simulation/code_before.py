"""The code of the first deployment, of which sessions are under way when the next one comes."""

from collections.abc import Awaitable, Callable

from orchestrator import SessionContext

Step = Callable[[SessionContext, str], Awaitable[str]]


async def handler(ctx: SessionContext, step: Step) -> list[str]:
    """Do three things, the second under its first name."""
    return [await step(ctx, "first"), await step(ctx, "old"), await step(ctx, "last")]
