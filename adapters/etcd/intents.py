"""Intents in etcd: one JSON value a scope, beside the lease record, changed by compare-and-swap."""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydantic import ValidationError

from adapters.etcd.client import EtcdClient
from dcdr.errors import MisconfiguredError
from dcdr.intent import Intent, StoredIntent


class EtcdIntentStore:
    """`dcdr.ports.IntentStore`. The intent of scope S stands under `<prefix>/S/intent`."""

    def __init__(self, client: EtcdClient, prefix: str = "/dcdr") -> None:
        self._client = client
        self._prefix = prefix.rstrip("/")

    async def read(self, scope: str) -> StoredIntent:
        """Linearizable. Raises: UnreachableError; MisconfiguredError when something else stands there."""
        found = await self._client.get(self._key(scope))
        return (
            StoredIntent(None, 0)
            if found is None
            else StoredIntent(self._parsed(scope, found.value), found.mod_revision)
        )

    async def write(self, scope: str, expected: StoredIntent, intent: Intent) -> StoredIntent:
        """Raises: ConflictError; UnreachableError."""
        body = intent.model_dump_json().encode()
        written = await self._client.swap(self._key(scope), body, mod_revision=expected.revision)
        return StoredIntent(intent, written.mod_revision)

    async def watch(self, scope: str) -> AsyncIterator[None]:
        """One item for every change from now on: a hint to look, never what was written."""
        async for _ in self._client.watch(self._key(scope), 0):
            yield None

    def _parsed(self, scope: str, body: bytes) -> Intent:
        try:
            intent = Intent.model_validate_json(body)
        except ValidationError as error:
            raise MisconfiguredError(
                f"{self._key(scope)} holds no intent this version can read: a newer version, or a person, wrote it. "
                "Use that version, or delete the key: an intent is a wish, nothing is lost"
            ) from error
        if intent.operation.scope != scope:
            raise MisconfiguredError(f"{self._key(scope)} holds an intent for {intent.operation.scope!r}")
        return intent

    def _key(self, scope: str) -> str:
        return f"{self._prefix}/{scope}/intent"
