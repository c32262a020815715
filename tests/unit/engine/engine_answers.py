"""Handlers that wait for an answer from outside, and the act of answering. To change it: no test logic here."""

from engine_trials import Plot
from engine_world import Diary, Handler, Node, World

from orchestrator import SessionContext
from orchestrator.calls import Callback
from orchestrator.deliveries import CallbackStatus
from orchestrator.errors import OperationFailed
from orchestrator.session.values import Json

Given = list[Callback]


def answers(given: Given, result: Json, *, status: CallbackStatus = "SUCCESS", error: Json = None) -> Plot:
    """Return the act of answering the latest callback that was handed out."""

    async def act(_: World, node: Node) -> None:
        if given:
            await node.deliveries.callback(given[-1].id, given[-1].token, status, result, error)

    return act


def waiting_handler(given: Given, *, timeout: float | None = None) -> Handler:
    """Return a handler that hands out a callback, does something, waits for the answer, does something more."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> object:
        callback = await ctx.create_callback("cb", timeout=timeout)
        given.append(callback)
        await diary.step(ctx, "a")
        await ctx.progress("asked")
        try:
            answer = await callback.result()
        except OperationFailed as failed:
            answer = [type(failed).__name__, failed.error.code, failed.error.message]
        await diary.step(ctx, "b")
        await ctx.sleep(2)
        return [answer, await ctx.wait_for_signal("end")]

    return handler
