"""What encrypts and opens payloads with keys of KMS: built alike by nodes and by commands."""

from __future__ import annotations

from actors import Clock
from orchestrator.aws.keys import TABLE_CONTEXT, MasterKeys
from orchestrator.encryption.cipher import PayloadCipher
from orchestrator.encryption.key_ring import KeyRing
from orchestrator.settings import Settings


def payload_cipher(settings: Settings, keys: MasterKeys, clock: Clock) -> PayloadCipher:
    """Return what encrypts payloads, if the settings name a key for that, and opens all that was ever encrypted."""
    # The table's name is the one at the time of writing, and stands in each header: one that was restored under another
    # name still opens.
    context = {TABLE_CONTEXT: settings.table}
    return PayloadCipher(KeyRing(keys, clock, key_arn=settings.payload_key_arn, context=context))
