"""A power switch for a node in memory: once it is off, nothing that the node does reaches the tables.

To change it: one switch for every adapter; what an adapter does is none of its business.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import Any

from orchestrator.errors import Stale
from orchestrator.testing.node import Adapters


class PowerCut(Stale):
    """The node has no power: whatever it asks of the tables, they do not hear. Its actors leave silently."""

    code = "POWER_CUT"


class Power:
    """Whether a node has any."""

    def __init__(self) -> None:
        self.is_on = True

    def cut(self) -> None:
        """Let nothing reach the tables any more, and no answer come back."""
        self.is_on = False

    def check(self) -> None:
        """Raise `PowerCut` unless it is on."""
        if not self.is_on:
            raise PowerCut("the node has no power")


def powered(adapters: Adapters, power: Power) -> Adapters:
    """Return the adapters as a node with that power reaches them."""
    switched: list[Any] = [_Powered(getattr(adapters, each.name), power) for each in fields(Adapters)]
    return Adapters(*switched)


class _Powered:
    """Any adapter, behind a switch."""

    def __init__(self, adapter: object, power: Power) -> None:
        self._adapter = adapter
        self._power = power

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._adapter, name)
        if not (inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)):
            # It answers from what the node knows by itself: nothing of it needs power.
            return method

        async def answered(*args: object, **kwargs: object) -> object:
            self._power.check()
            answer: object = await method(*args, **kwargs)
            self._power.check()
            return answer

        async def streamed(*args: object, **kwargs: object) -> AsyncIterator[object]:
            self._power.check()
            async for each in method(*args, **kwargs):
                self._power.check()
                yield each

        return streamed if inspect.isasyncgenfunction(method) else answered
