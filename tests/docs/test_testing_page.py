"""What `docs/testing.md` shows runs as it stands."""

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator import Orchestrator, SessionContext, testing

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
ROOT = Path(__file__).parents[2]


async def test_the_examples_run_as_they_stand(tmp_path: Path) -> None:
    """Its blocks, saved under the names in their first lines, pass under pytest; so does a recorded journal."""
    blocks: dict[str, str] = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
    assert {"research.py", "test_research.py", "test_journals.py"} == blocks.keys()
    for name, block in blocks.items():
        (tmp_path / name).write_text(block)
    await _record(tmp_path / "journals")
    code, out = _pytest(tmp_path)
    assert (0, True) == (code, "4 passed" in out), out


async def test_a_change_of_the_example_is_told_as_the_page_tells_it(tmp_path: Path) -> None:
    """The text is the one that it quotes."""
    quoted = re.search(r"```\norder-17: (.*) …\n```", PAGE)
    assert quoted is not None

    async def before(ctx: SessionContext) -> None:
        await ctx.step("outline", str)

    async def after(ctx: SessionContext) -> None:
        await ctx.step("draft", str)

    async with testing.environment(_app(before)) as env:
        session = await env.start("main", session_id="order-17")
        path = session.record(tmp_path)
    with pytest.raises(testing.ReplayFailed, match=re.escape(f"order-17: {quoted[1]}")):
        testing.replay(path, _app(after))


def _app(handler: object) -> Orchestrator:
    app = Orchestrator()
    app.session("main")(handler)  # type: ignore[type-var]
    return app


async def _record(folder: Path) -> None:
    """Record a session of the page's application that waits for its approval."""
    module: dict[str, object] = {}
    exec((folder.parent / "research.py").read_text(), module)
    app = module["app"]
    assert isinstance(app, Orchestrator)

    async def fake(prompt: object) -> str:
        return f"all about {prompt}"

    async with testing.environment(app, agents={"researcher": fake}) as env:
        session = await env.start("research", "tea")
        await env.skip(timedelta(days=7))
        session.record(folder)


def _pytest(folder: Path) -> tuple[int, str]:
    # With no configuration but this one, whatever lies in a folder above.
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "-o", "asyncio_mode=auto", "--rootdir=."]
    command = [sys.executable, "-m", "pytest", *options]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={"PYTHONPATH": f"{ROOT}:{folder}"}
    )
    return done.returncode, done.stdout + done.stderr
