"""A subscription, as a session."""

from datetime import timedelta

from pydantic import BaseModel

from orchestrator import OperationTimedOut, Orchestrator, RetryPolicy, SessionContext, current_invocation

app = Orchestrator()
books: list[str] = []

PATIENTLY = RetryPolicy(max_attempts=5, initial_delay=timedelta(seconds=1), multiplier=2.0)
MONTH = timedelta(days=30)
MONTHS_A_JOURNAL = 12


class Plan(BaseModel):
    customer: str
    currency: str = "EUR"
    paid: int = 0


def greet(customer: str) -> None:
    books.append(f"greeted {customer}")


def charge(customer: str, currency: str) -> None:
    books.append(f"charged {customer} in {currency}, once by {current_invocation().idempotency_key}")


def pay_back(customer: str) -> str:
    return f"{customer} was paid back"


@app.session("refund")
async def refund(ctx: SessionContext, plan: Plan) -> str:
    return await ctx.step("pay-back", pay_back, plan.customer)


async def is_cancelled(ctx: SessionContext) -> bool:
    try:
        await ctx.wait_for_signal("cancel", timeout=MONTH)
    except OperationTimedOut:
        return False
    return True


@app.session("subscription")
async def subscription(ctx: SessionContext, plan: Plan) -> str:
    if plan.paid == 0:
        await ctx.step("greet", greet, plan.customer, retry=PATIENTLY, timeout=timedelta(seconds=30))
    for _ in range(MONTHS_A_JOURNAL):
        if await is_cancelled(ctx):
            return f"{plan.paid} months paid; {await ctx.run_session('refund', plan)}"
        currency = plan.currency if ctx.patched("currencies") else "EUR"
        await ctx.step("charge", charge, plan.customer, currency, retry=PATIENTLY, timeout=timedelta(minutes=1))
        plan.paid += 1
        await ctx.progress(f"{plan.paid} months paid", data={"paid": plan.paid})
    return ctx.continue_as_new(plan)
