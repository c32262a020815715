"""An application for the tests of what comes from outside: sessions that S3 and EventBridge start."""

from botocore.exceptions import ClientError

from orchestrator import Event, NonRetryable, Orchestrator, S3Object, SessionContext, StepFailed
from orchestrator.aws.clients import connect

app = Orchestrator()


async def text_of(bucket: str, key: str) -> str:
    """Return what the object holds; one that is gone will not come back."""
    async with connect() as clients:
        try:
            answer = await clients.s3.get_object(Bucket=bucket, Key=key)
        except ClientError as error:
            raise NonRetryable(error.response["Error"]["Code"]) from error
        async with answer["Body"] as body:
            return (await body.read()).decode()


@app.on_s3_object(prefix="in/")
@app.session("document")
async def document(ctx: SessionContext, created: S3Object) -> str:
    """End with the object's key and what it holds."""
    try:
        text = await ctx.step("read", text_of, created.bucket, created.key)
    except StepFailed as failed:
        text = failed.error.message
    return f"{created.key}: {text}"


@app.on_event(source="acme.shop", detail_type="Order *", transform=lambda event: event.detail["item"])
@app.session("order")
async def order(ctx: SessionContext, item: str) -> str:
    """End with what was ordered."""
    return item


@app.on_event(source="acme.*", match={"detail": {"item": [{"prefix": "te"}]}}, key=lambda event: event.detail["item"])
@app.session("audit")
async def audit(ctx: SessionContext, event: Event) -> str:
    """Note that something was told of an item, once for each item."""
    return "heard"
