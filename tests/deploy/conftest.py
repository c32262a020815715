"""The stacks that the tests of a deployment look at, each deployed once."""

import pytest

from tests.deploy.stacks import Account, Stack
from tests.deploy.templates import EVERYTHING, NEEDED
from tests.emulators import Emulator


@pytest.fixture(scope="package")
def account(ministack: Emulator) -> Account:
    """The account of a stack with no option asked for."""
    return Account(ministack)


@pytest.fixture(scope="package")
def stack(account: Account) -> Stack:
    """A stack as it comes up when nothing is asked for."""
    return account.deploy_main(NEEDED)


@pytest.fixture(scope="package")
def full_account(ministack: Emulator) -> Account:
    """The account of a stack with every option."""
    return Account(ministack)


@pytest.fixture(scope="package")
def full_stack(full_account: Account) -> Stack:
    """A stack with every option."""
    return full_account.deploy_main(EVERYTHING)
