"""An order, as an AWS Lambda durable function."""

from typing import Any

from aws_durable_execution_sdk_python import (
    BatchResult,
    DurableContext,
    StepContext,
    durable_execution,
    durable_step,
    durable_with_child_context,
)
from aws_durable_execution_sdk_python.config import (
    CallbackConfig,
    Duration,
    JitterStrategy,
    MapConfig,
    StepConfig,
    StepSemantics,
    WaitForCallbackConfig,
)
from aws_durable_execution_sdk_python.retries import RetryStrategyConfig, create_retry_strategy
from aws_durable_execution_sdk_python.waits import WaitForConditionConfig, WaitStrategyConfig, create_wait_strategy

from docs.migrating.lambda_durable import shop

THRICE = create_retry_strategy(
    RetryStrategyConfig(max_attempts=3, initial_delay=Duration.from_seconds(1), jitter_strategy=JitterStrategy.NONE)
)
UNTIL_DELIVERED = create_wait_strategy(
    WaitStrategyConfig[str](
        should_continue_polling=lambda parcel: parcel != "delivered",
        initial_delay=Duration.from_seconds(1),
        jitter_strategy=JitterStrategy.NONE,
    )
)


@durable_step
def price(step: StepContext, items: list[str]) -> int:
    step.logger.info("pricing")
    return shop.price(items)


@durable_step
def wrap(step: StepContext, item: str) -> str:
    return shop.wrap(item)


@durable_with_child_context
def pack(context: DurableContext, items: list[str]) -> list[str]:
    return [context.step(wrap(item)) for item in items]


@durable_execution
def handler(event: dict[str, Any], context: DurableContext) -> dict[str, Any]:
    items = event["items"]
    total = context.step(price(items))
    reserved: BatchResult[str] = context.map(
        items,
        lambda branch, item, index, all_items: branch.step(lambda _: shop.reserve(item), name="reserve"),
        name="reserve",
        config=MapConfig(max_concurrency=2),
    )
    context.wait(Duration.from_hours(1), name="cooling-off")
    charge = StepConfig(retry_strategy=THRICE, step_semantics=StepSemantics.AT_LEAST_ONCE_PER_RETRY)
    receipt = context.step(lambda step: shop.charge(total, step.attempt), name="charge", config=charge)
    approval = context.wait_for_callback(
        lambda callback_id, _: shop.ask_the_boss(callback_id),
        name="approval",
        config=WaitForCallbackConfig(timeout=Duration.from_days(1)),
    )
    label = context.create_callback(name="label", config=CallbackConfig(timeout=Duration.from_days(1)))
    context.step(lambda _: shop.order_label(label.callback_id), name="order-label")
    packed, invoice = context.parallel(
        [
            lambda branch: branch.run_in_child_context(pack(items), name="pack"),
            lambda branch: branch.step(lambda _: shop.invoice(total), name="invoice"),
        ],
        name="packing",
    ).get_results()
    printed = label.result()
    parcel = context.wait_for_condition(
        lambda _, check: shop.track(check.attempt),
        config=WaitForConditionConfig(wait_strategy=UNTIL_DELIVERED, initial_state="packed"),
        name="parcel",
    )
    context.logger.info("delivered")
    return {
        "reserved": reserved.get_results(),
        "receipt": receipt,
        "approval": approval,
        "label": printed,
        "packed": packed,
        "invoice": invoice,
        "parcel": parcel,
    }
