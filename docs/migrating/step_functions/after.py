"""The same claim, as a session."""

from datetime import timedelta

from pydantic import BaseModel

from orchestrator import ApprovalTimedOut, NonRetryable, Orchestrator, RetryPolicy, SessionContext

app = Orchestrator()
payments: list[int] = []


class Item(BaseModel):
    name: str
    worth: int


class Claim(BaseModel):
    amount: int
    items: list[Item]


def appraise(item: Item) -> str:
    return f"{item.name} at {item.worth}"


def pay(amount: int) -> None:
    payments.append(amount)


async def is_approved(ctx: SessionContext, amount: int) -> bool:
    try:
        return (await ctx.request_approval("ask", subject=amount, timeout=timedelta(days=1))).approved
    except ApprovalTimedOut:
        return False


@app.session("claim")
async def claim(ctx: SessionContext, claim: Claim) -> dict[str, object]:
    appraised = await ctx.map("appraise", appraise, claim.items, max_concurrency=2)
    if claim.amount > 1_000 and not await is_approved(ctx, claim.amount):
        raise NonRetryable("the adjuster said no, or nothing in time")
    await ctx.sleep(timedelta(seconds=1), name="cool-off")
    await ctx.step("pay", pay, claim.amount, retry=RetryPolicy(max_attempts=4))
    return {"status": "PAID", "amount": claim.amount, "appraised": appraised}
