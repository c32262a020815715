"""Who may answer an approval: whoever the session names, by whichever way the answer comes."""

import pytest
from engine_world import World, app_of

from actors import settle
from orchestrator import SessionContext
from orchestrator.deliveries import NotAnApprover, WrongToken
from orchestrator.session.values import Json


async def asks(ctx: SessionContext) -> bool:
    """Wait for ann or bob."""
    return (await ctx.request_approval("publish", approvers=["ann", "bob"])).approved


async def test_a_token_opens_an_approval_to_its_approvers_only() -> None:
    """The token says that somebody was asked; who may answer stands in the journal."""
    world = World()
    async with world.node(app_of(asks)) as node:
        await node.start()
        await settle()
        notice = world.notifications.approvals[0]
        eve: dict[str, Json] = {"approved": True, "by": "eve"}
        with pytest.raises(NotAnApprover):
            await node.deliveries.callback(notice.callback_id, notice.token, "SUCCESS", eve, None)
        with pytest.raises(WrongToken):
            await node.deliveries.callback(notice.callback_id, "token", "SUCCESS", {**eve, "by": "ann"}, None)
        await node.deliveries.callback(notice.callback_id, notice.token, "SUCCESS", {**eve, "by": "bob"}, None)
        await world.end()
        assert (await world.state()).result is True
