"""Write the product's settings for this estate, as a process at one of its sites sees it."""

from __future__ import annotations

from typing import Any

import yaml

from lab import connect, kube, store, tls
from lab.addresses import ARBITER, MEMBERS
from lab.estate import Lab
from lab.gates import AUTHORIZER

LEASE = {"preset": "fast"}


def document(lab: Lab, site: str = ARBITER) -> dict[str, Any]:
    """The settings as data; `dcdr.settings.Settings` is their schema. `site`: where they are read, by a worker at the
    arbiter's, or by an agent at its own."""
    plan, users, about = lab.plan, lab.document["users"], lab.document["kubernetes"]

    # Without the authorizer the mirror has no gate to ask for.
    user = {"username": "mirror-canary", "password_file": users["mirror-canary"]}
    mirror_canary = {"mirror_canary": user} if lab.fence_mode == AUTHORIZER else {}

    def member(name: str) -> dict[str, Any]:
        return {
            "kafka": {
                "bootstrap": [str(one) for one in plan.kafka(name, "INTERNAL" if name == site else "CONTROL")],
                "admin": {"username": "admin", "password_file": users["admin"]},
                "canary": {"username": "canary", "password_file": users["canary"]},
                **mirror_canary,
            },
            "connect": {
                "url": f"http://{plan.link(ARBITER, name, 'connect').listen[0]}",
                "group_id": connect.group_id(name),
            },
            "endpoint": about["endpoints"][name],
            "agent": {
                "listen": str(plan.ports[f"agent-{name}/marker"]),
                "status": str(plan.ports[f"agent-{name}/status"]),
                "state": str(lab.home.data / f"agent-{name}"),
                "tls": {word: str(file) for word, file in tls.files(lab.home, f"agent-{name}").items()},
            },
        }

    return {
        "scopes": {
            store.SCOPE: {
                "members": {name: member(name) for name in MEMBERS},
                "arbiters": [ARBITER],
                "store": {"endpoints": [str(address) for address in store.endpoints(plan, site)]},
                "fence": lab.fence_mode,
                "lease": LEASE,
                "endpoint": {
                    "api_server": about["api_server"],
                    "ca_file": about["ca_file"],
                    "token_file": about["tokens"]["operator"],
                    "namespace": kube.NAMESPACE,
                    "endpoint_slice": kube.SLICE,
                    "port_name": kube.PORT_NAME,
                },
            }
        }
    }


def render(lab: Lab, site: str = ARBITER) -> str:
    return yaml.safe_dump(document(lab, site), sort_keys=False)
