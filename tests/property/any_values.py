"""What hypothesis draws for whatever reads what outsiders send. To change it: no test logic here."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from pydantic import BaseModel

anything = st.text(st.characters())
"""Every character that a text of Python can hold, lone surrogates too."""
leaves = st.none() | st.booleans() | st.integers() | st.floats() | anything
json_like = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(anything, inner, max_size=4),
    max_leaves=8,
)
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


class Order(BaseModel):
    """An input that can be wrong."""

    item: str
    count: int = 1
