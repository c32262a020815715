"""The stores that every contract is held to, and a wire that can be made to fail."""

from collections.abc import AsyncIterator, Iterator

import pytest
from aiobotocore.session import AioSession, get_session
from botocore.loaders import Loader

from orchestrator.aws import clients
from orchestrator.callbacks import Callbacks
from orchestrator.cluster import Heads, Nodes
from orchestrator.inbox import Inbox, WakeUps
from orchestrator.journal import Journal
from orchestrator.tenants import Quotas
from orchestrator.usage import Usage
from tests.contract.fault_proxy import FaultProxy, fault_proxy
from tests.contract.stage import OpenTable, Store, cipher, open_store, open_table, simulated_store
from tests.emulators import Emulator

STORES = (
    "memory",
    "simulated",
    "encrypted",
    "ministack",
    "moto",
    pytest.param("dynamodb_local", marks=pytest.mark.docker),
)


ENCRYPTED_SUITES = ("test_journal", "test_inbox", "test_callbacks")
"""Of what is stored, these alone hold payloads."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Hold stores that encrypt payloads to the suites of those alone that have any."""
    beside = {item for item in items if _is_encrypted(item) and not item.path.stem.startswith(ENCRYPTED_SUITES)}
    config.hook.pytest_deselected(items=list(beside))
    items[:] = [item for item in items if item not in beside]


def _is_encrypted(item: pytest.Item) -> bool:
    return (
        isinstance(item, pytest.Function) and hasattr(item, "callspec") and "encrypted" in item.callspec.params.values()
    )


@pytest.fixture(scope="package", autouse=True)
def read_service_models_once() -> Iterator[None]:
    """Let all sessions share the parsed models of the services: reading them is most of what a client costs."""
    loader = Loader()

    def session() -> AioSession:
        made = get_session()
        made.register_component("data_loader", loader)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clients, "get_session", session)
        yield


@pytest.fixture(params=STORES)
def emulator(request: pytest.FixtureRequest) -> Emulator | None:
    """Each emulator that stores are held to in turn; `None` stands for what needs none."""
    if request.param in {"memory", "simulated", "encrypted"}:
        return None
    running = request.getfixturevalue(request.param)
    assert isinstance(running, Emulator)
    return running


@pytest.fixture
def isolated(emulator: Emulator | None) -> None:
    """Skip where writes at once are not isolated from each other.

    moto checks a condition and writes in two steps, between which its other threads write; and it undoes, with a
    transaction that fails, what others did meanwhile.
    """
    if emulator is not None and emulator.name == "moto":
        pytest.skip("moto does not isolate writes that come at once")


@pytest.fixture
async def store(emulator: Emulator | None, request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """One implementation of the protocols, empty."""
    match request.node.callspec.params.get("emulator"):
        case "simulated":
            opening = simulated_store()
        case "encrypted":
            opening = simulated_store(cipher())
        case _:
            opening = open_store(emulator)
    async with opening as opened:
        yield opened


@pytest.fixture
def journal(store: Store) -> Journal:
    """An empty journal of each kind."""
    return store.journal


@pytest.fixture
def heads(store: Store) -> Heads:
    """No HEADs yet, of each kind."""
    return store.heads


@pytest.fixture
def nodes(store: Store) -> Nodes:
    """No nodes yet, of each kind."""
    return store.nodes


@pytest.fixture
def inbox(store: Store) -> Inbox:
    """No messages yet, of each kind."""
    return store.inbox


@pytest.fixture
def wake_ups(store: Store) -> WakeUps:
    """No notes yet, of each kind."""
    return store.wake_ups


@pytest.fixture
def callbacks(store: Store) -> Callbacks:
    """No callbacks yet, of each kind."""
    return store.callbacks


@pytest.fixture
def quotas(store: Store) -> Quotas:
    """No slots taken yet, of each kind."""
    return store.quotas


@pytest.fixture
def usage(store: Store) -> Usage:
    """Nothing spent yet, of each kind."""
    return store.usage


@pytest.fixture
async def proxy(ministack: Emulator) -> AsyncIterator[FaultProxy]:
    """The wire between the product and ministack."""
    async with fault_proxy(ministack.endpoint_url) as running:
        yield running


@pytest.fixture
async def opened(ministack: Emulator, proxy: FaultProxy) -> AsyncIterator[OpenTable]:
    """An empty table behind the wire."""
    async with open_table(ministack, through=proxy.endpoint_url) as table:
        proxy.requests.entries.clear()
        yield table
