"""Data keys in memory: the one that contents are encrypted by now, and those that were asked for to read something.

A data key encrypts 2^20 contents, for five minutes at most. The longest content takes a hundred messages, so there are
under 2^27, and two of them share their random nonce of 96 bits with a chance of 2^-43, where NIST allows 2^-32 (SP
800-38D, 8.3). Five minutes bound what a stolen one opens, and how long a key that was taken away is still used.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from actors import Clock
from orchestrator.encryption import Altered, KeyService
from orchestrator.session.values import compact_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

USES_MAX: Final = 2**20
SECONDS_MAX: Final = 300.0
OPENED_MAX: Final = 1_000
"""Data keys that are remembered: a busy cluster of ten nodes makes so many in eight hours."""
OPENED_SECONDS_MAX: Final = 300.0
"""So long after KMS last allowed it, this process still reads what stands under a data key."""
VERSION: Final = 1


@dataclass(slots=True)
class _Current:
    header: bytes
    aead: AESGCM
    made_at: float
    uses: int = 0


class KeyRing:
    """The data keys of one process. `key_arn` is what new ones are made under; `None`: nothing is encrypted."""

    def __init__(
        self,
        keys: KeyService,
        clock: Clock,
        *,
        key_arn: str | None,
        context: Mapping[str, str],
        uses_max: int = USES_MAX,
    ) -> None:
        """`context` goes with every new data key to KMS: it stands in its logs, and policies can ask for it."""
        self._keys = keys
        self._clock = clock
        self._key_arn = key_arn
        self._context = dict(context)
        self._uses_max = uses_max
        self._current: _Current | None = None
        self._opened: OrderedDict[bytes, tuple[AESGCM, float]] = OrderedDict()
        self._making = asyncio.Lock()
        self._opening: dict[bytes, asyncio.Lock] = {}

    @property
    def is_encrypting(self) -> bool:
        """Whether what is written is to be encrypted."""
        return self._key_arn is not None

    async def to_encrypt(self) -> tuple[bytes, AESGCM]:
        """Return the header and the data key for one more content. Raises `Unavailable` where KMS refuses."""
        current = self._usable()
        if current is None:
            async with self._making:
                # Another task may have made one while this one waited for its turn.
                current = self._usable() or await self._made()
        current.uses += 1
        return current.header, current.aead

    async def to_decrypt(self, header: bytes) -> AESGCM:
        """Return the data key of what has this header.

        Raises:
            Altered: no header of ours, or not what KMS made under the key that it names.
            Unavailable: KMS refuses that key.
        """
        known = self._remembered(header)
        if known is not None:
            return known
        try:
            # A cluster that wakes asks for the same one in a thousand sessions at once.
            async with self._opening.setdefault(header, asyncio.Lock()):
                return self._remembered(header) or await self._asked_for(header)
        finally:
            self._opening.pop(header, None)

    def _usable(self) -> _Current | None:
        current = self._current
        if current is None or current.uses >= self._uses_max:
            return None
        return current if self._clock.monotonic() - current.made_at < SECONDS_MAX else None

    async def _made(self) -> _Current:
        assert self._key_arn is not None, "nothing is encrypted without a key"
        key_arn, encrypted, secret = await self._keys.generate(self._key_arn, self._context)
        header = compact_json(
            {
                "v": VERSION,
                "alg": "A256GCM",
                "key": key_arn,
                "data_key": b64encode(encrypted).decode(),
                "context": dict(self._context),
            }
        ).encode()
        self._current = _Current(header, _aead(secret), self._clock.monotonic())
        self._remember(header, self._current.aead)
        return self._current

    async def _asked_for(self, header: bytes) -> AESGCM:
        key_arn, encrypted, context = _parsed(header)
        secret = await self._keys.decrypt(key_arn, encrypted, context)
        if secret is None:
            raise Altered(f"its data key was not made under {key_arn:.200}")
        aead = _aead(secret)
        self._remember(header, aead)
        return aead

    def _remembered(self, header: bytes) -> AESGCM | None:
        aead, since = self._opened.get(header, (None, 0.0))
        if aead is None or self._clock.monotonic() - since >= OPENED_SECONDS_MAX:
            return None
        self._opened.move_to_end(header)
        return aead

    def _remember(self, header: bytes, aead: AESGCM) -> None:
        self._opened[header] = (aead, self._clock.monotonic())
        self._opened.move_to_end(header)
        if len(self._opened) > OPENED_MAX:
            self._opened.popitem(last=False)


def _aead(secret: bytes) -> AESGCM:
    # Not before the first key: a process without one need not load it.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    try:
        return AESGCM(secret)
    except ValueError:
        raise Altered("its data key has another length") from None


def _parsed(header: bytes) -> tuple[str, bytes, dict[str, str]]:
    """Return key, encrypted data key and context of a header. Raises `Altered` for one that is none of ours."""
    try:
        match json.loads(header):
            case {
                "v": 1,
                "alg": "A256GCM",
                "key": str(key_arn),
                "data_key": str(encoded),
                "context": dict(context),
            } if all(isinstance(part, str) for part in context.values()):
                return key_arn, b64decode(encoded, validate=True), context
    except (ValueError, RecursionError):
        pass
    raise Altered("its header is none that this version writes")
