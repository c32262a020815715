"""The same order, as a session."""

from datetime import timedelta

from pydantic import BaseModel

from docs.migrating.lambda_durable import shop
from orchestrator import Callback, Orchestrator, RetryPolicy, SessionContext, current_invocation

app = Orchestrator()

THRICE = RetryPolicy(max_attempts=3, initial_delay=timedelta(seconds=1))
LOOKS_MAX = 60


class Order(BaseModel):
    items: list[str]


def charge(total: int) -> str:
    return shop.charge(total, current_invocation().attempt)


def ask_the_boss(callback: Callback) -> None:
    shop.ask_the_boss(callback.id)


async def pack(ctx: SessionContext, items: list[str]) -> list[str]:
    return [await ctx.step("wrap", shop.wrap, item) for item in items]


async def parcel_delivered(ctx: SessionContext) -> str:
    for look in range(1, LOOKS_MAX + 1):
        parcel = await ctx.step("parcel", shop.track, look)
        if parcel == "delivered":
            return parcel
        await ctx.sleep(timedelta(seconds=min(1.5**look, 300)))
    raise TimeoutError(f"not delivered after {LOOKS_MAX} looks")


@app.session("order")
async def handler(ctx: SessionContext, order: Order) -> dict[str, object]:
    total = await ctx.step("price", shop.price, order.items)
    reserved = await ctx.map("reserve", shop.reserve, order.items, max_concurrency=2)
    await ctx.sleep(timedelta(hours=1), name="cooling-off")
    receipt = await ctx.step("charge", charge, total, retry=THRICE)
    approval = await ctx.wait_for_callback("approval", ask_the_boss, timeout=timedelta(days=1))
    label = await ctx.create_callback("label", timeout=timedelta(days=1))
    await ctx.step("order-label", shop.order_label, label.id)
    packed, invoice = await ctx.gather(
        ctx.scope("pack", lambda: pack(ctx, order.items)),
        ctx.step("invoice", shop.invoice, total),
    )
    printed = await label.result()
    parcel = await parcel_delivered(ctx)
    ctx.logger.info("delivered")
    return {
        "reserved": reserved,
        "receipt": receipt,
        "approval": approval,
        "label": printed,
        "packed": packed,
        "invoice": invoice,
        "parcel": parcel,
    }
