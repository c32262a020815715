"""`docs/settings.md` lists the settings that there are."""

import re
from pathlib import Path

import pytest

from orchestrator.settings import ENV_PREFIX, Settings

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (?:`([^`]*)`)? ?\|", re.MULTILINE)


def test_the_page_lists_every_setting_in_order() -> None:
    """Each by the name of its variable."""
    expected = [f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields]
    assert expected == [name for name, _ in ROW.findall(PAGE)]


def test_the_defaults_of_the_page_are_those_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set as they stand there, they change nothing; what has none there has none."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{ENV_PREFIX}{name}".upper(), raising=False)
    unset = Settings(host="127.0.0.1")
    for name, default in ROW.findall(PAGE):
        if default:
            monkeypatch.setenv(name, default)
        else:
            assert not getattr(unset, name.removeprefix(ENV_PREFIX).lower())
    assert unset == Settings()
