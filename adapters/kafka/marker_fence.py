"""The gates where the brokers run our authorizer: the agent's marker moves them, and the canaries confirm."""

from __future__ import annotations

from typing import Final

from adapters.kafka import messages
from adapters.kafka.fence import KafkaProduceFence
from adapters.kafka.trouble import refusal
from adapters.kafka.wire import both, together
from dcdr.model import FenceRules

AUTHORIZER: Final = "dcdr.authorizer.MarkerAuthorizer"
_BROKER_RESOURCE: Final = 4
_NAME: Final = "authorizer.class.name"


class KafkaMarkerFence(KafkaProduceFence):
    """As in ACL mode for groups; nobody but the lease closes or opens users. `open_users` still removes rules: what an
    earlier life in ACL mode left standing would refuse."""

    async def rules(self) -> FenceRules:
        """Raises: UnreachableError when a broker does not say what it runs."""
        rules, ungated = await both(super().rules(), self._ungated())
        return rules._replace(users_denied=True, ungated=ungated)

    async def close_users(self) -> None:
        """The agent has told the brokers when the lease said so, and without it they close by themselves."""

    async def _ungated(self) -> tuple[int, ...]:
        """Brokers that run another authorizer than ours, or none."""
        nodes = sorted(self._wire.known_nodes)
        running = await together(self._authorizer(node) for node in nodes)
        return tuple(node for node, name in zip(nodes, running, strict=True) if name != AUTHORIZER)

    async def _authorizer(self, node: int) -> str:
        request = messages.DESCRIBE_CONFIGS(
            resources=[
                messages.DESCRIBE_CONFIGS.DescribeConfigsResource(
                    resource_type=_BROKER_RESOURCE, resource_name=str(node), configuration_keys=[_NAME]
                )
            ],
            include_synonyms=False,
            include_documentation=False,
        )
        result = (await self._wire.call(node, request)).results[0]
        if result.error_code:
            raise refusal(self._wire.dc, result.error_code, f"asking broker {node} for its authorizer")
        return next((config.value or "" for config in result.configs if config.name == _NAME), "")
