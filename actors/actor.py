"""What an actor is to the runtime: three methods, called one at a time, in this order.

To change it: anything added here must be called by `cell.py` and by nothing else.
"""

from typing import Protocol, TypeVar

M_contra = TypeVar("M_contra", contravariant=True)


class Actor(Protocol[M_contra]):
    """State that one task at a time touches. Whatever it raises goes to its supervisor."""

    async def activate(self) -> None:
        """Get ready. Runs once, before the first message; messages wait meanwhile."""

    async def receive(self, message: M_contra) -> None:
        """Handle one message; the next one waits until this returns."""

    async def deactivate(self) -> None:
        """Tidy up. Runs last, on stop, passivation and drain.

        Not after a failure, nor when `activate` or `receive` was cancelled half-way: the state cannot be trusted then.
        """
