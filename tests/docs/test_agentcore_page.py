"""What `docs/agentcore.md` shows runs as it stands."""

import re
from pathlib import Path

from http_stage import stage

from actors import settle
from orchestrator import Orchestrator

PAGE = (Path(__file__).parents[2] / "docs" / "agentcore.md").read_text()


class AtOnce:
    """An `EventSignal` that lets everything else run, and looks again."""

    async def wait(self, session_id: str, timeout: float) -> None:
        """See `EventSignal.wait`."""
        await settle()


async def test_the_application_answers_an_invocation_as_the_page_says() -> None:
    """Its first block is an application; what the second one sends is answered, and streamed, as the page tells."""
    application, call = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    module: dict[str, object] = {}
    exec(application, module)
    app = module["app"]
    assert isinstance(app, Orchestrator)
    runtime_id, payload, told = (_first(p, call) for p in (r'Id="(.*?)"', r"payload=b'(.*?)'", r"# (\{.*\})"))
    frames = _first(r"```\n(event: accepted\n.*?)```", PAGE).replace("…", runtime_id)
    async with stage(app=app, news=AtOnce()) as node:
        url, headers = f"{node.url}/invocations", {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": runtime_id}
        async with node.http.post(url, data=payload.encode(), headers=headers) as answer:
            assert (200, told) == (answer.status, (await answer.text()).replace('":"', '": "').replace(",", ", "))
        headers["Accept"] = "text/event-stream"
        async with node.http.post(url, data=payload.encode(), headers=headers) as answer:
            assert frames == (await answer.text()).removeprefix("retry: 1000\n\n").removesuffix("\n")


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.DOTALL)
    assert found is not None, pattern
    return found.group(1)
