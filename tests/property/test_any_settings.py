"""Any environment is settings, or one line that names the variable (I11)."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import pytest
from any_values import examples
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SettingsError
from orchestrator.settings import Settings, load

VARIABLES: Final = [f"ORCHESTRATOR_{name.upper()}" for name in Settings.model_fields]
environment_texts = st.text(
    st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20
) | st.sampled_from(
    [
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1e999",
        "1_000",
        "٣",
        " 5 ",
        "",
        "true",
        "null",
        "[]",
        "{}",
        ",,",
        "9" * 5_000,
        "\udc80",
    ]
)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set these variables, and none other of ours, while the block runs."""
    before = dict(os.environ)
    try:
        for name in [name for name in os.environ if name.upper().startswith("ORCHESTRATOR_")]:
            del os.environ[name]
        os.environ.update(variables)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@given(variables=st.dictionaries(st.sampled_from(VARIABLES), environment_texts, max_size=4))
@examples(300)
def test_any_environment_is_settings_or_one_line_that_names_the_variable(variables: dict[str, str]) -> None:
    """And settings that are accepted can be worked with: every number is one."""
    with environment(variables):
        try:
            accepted = load()
        except SettingsError as error:
            text = str(error)
            assert 1 == len(text.splitlines())
            assert any(name in text for name in VARIABLES)
            text.encode()
            return
    for name, value in accepted:
        assert not (isinstance(value, float) and math.isnan(value)), name
    assert accepted.node_timeout_seconds >= 2 * accepted.heartbeat_seconds


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ORCHESTRATOR_PORT", "http"),
        ("ORCHESTRATOR_PORT", "65536"),
        ("ORCHESTRATOR_HEARTBEAT_SECONDS", "0"),
        ("ORCHESTRATOR_HEARTBEAT_SECONDS", "nan"),
        ("ORCHESTRATOR_NODE_TIMEOUT_SECONDS", "nan"),
        ("ORCHESTRATOR_NODE_TIMEOUT_SECONDS", "9"),
        ("ORCHESTRATOR_DRAIN_SECONDS", "nan"),
        ("ORCHESTRATOR_PASSIVATE_AFTER_SECONDS", "nan"),
        ("ORCHESTRATOR_MAX_SESSIONS", "0"),
        ("ORCHESTRATOR_INLINE_LIMIT_BYTES", "400000"),
        ("ORCHESTRATOR_LOG_FORMAT", "xml"),
        ("ORCHESTRATOR_QUEUE", ""),
        ("ORCHESTRATOR_HOST", ""),
    ],
)
def test_a_bad_setting_is_named(variable: str, value: str) -> None:
    """One line, the variable first."""
    with environment({variable: value}), pytest.raises(SettingsError, match=f"^{variable}: .+$"):
        load()


def test_api_keys_are_split_at_commas() -> None:
    """White space and empty ones do not count, and they do not show."""
    with environment({"ORCHESTRATOR_API_KEYS": " one, two ,,"}):
        accepted = load()
    assert ["one", "two"] == [key.get_secret_value() for key in accepted.api_keys]
    assert "two" not in repr(accepted)
