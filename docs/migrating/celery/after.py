"""An uploaded video, as a session."""

from datetime import timedelta

from pydantic import BaseModel

from orchestrator import Orchestrator, RetryPolicy, SessionContext, current_invocation

app = Orchestrator()
done: list[str] = []

FIVE_TIMES = RetryPolicy(max_attempts=6, initial_delay=timedelta(seconds=1), max_delay=timedelta(minutes=10))


class Upload(BaseModel):
    video: str
    sizes: list[int]


def thumbnail(video: str, size: int) -> str:
    if current_invocation().attempt == 1:
        raise OSError("the disk was full")
    return f"{video}-{size}.jpg"


def publish(thumbnails: list[str]) -> str:
    done.append(f"published {len(thumbnails)}")
    return f"page with {', '.join(thumbnails)}"


def remind(page: str) -> None:
    done.append(f"reminded of the {page}")


@app.session("upload")
async def upload(ctx: SessionContext, upload: Upload) -> str:
    async def one(size: int) -> str:
        return await ctx.step("thumbnail", thumbnail, upload.video, size, retry=FIVE_TIMES)

    thumbnails = await ctx.map("sizes", one, upload.sizes, max_concurrency=4)
    page = await ctx.step("publish", publish, thumbnails)
    await ctx.sleep(timedelta(hours=1))
    await ctx.step("remind", remind, page, retry=FIVE_TIMES)
    return page
