"""Write the product's settings for this estate, as a process at one of its sites sees it."""

from __future__ import annotations

from typing import Any

import yaml

from lab import connect, kube, store, tls
from lab.addresses import ARBITER, MEMBERS
from lab.estate import Lab
from lab.gates import AUTHORIZER

LEASE = {"preset": "fast"}
FAILOVER: dict[str, Any] = {
    "mode": "automatic",
    "max_lost_records": 100_000,
    "max_lost_seconds": 120,
    "journal_every": "PT1S",
    "cool_down": "PT0S",  # tests fail over again and again; an owner's estate waits an hour
}
"""What may be lost without asking: more than a load of the lab's has ever on its way, unless something is broken."""


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
                "bootstrap": [str(one) for one in plan.kafka(name, _listener(site, name))],
                "admin": {"username": "admin", "password_file": users["admin"]},
                "canary": {"username": "canary", "password_file": users["canary"]},
                **mirror_canary,
            },
            "connect": {
                "url": f"http://{plan.connect(site, name)}",
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
                "lease": LEASE | ({"automatic": True} if lab.automatic else {}),
                "failover": FAILOVER | lab.document["failover"],
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


def _listener(site: str, member: str) -> str:
    """Which of a member's listeners a process at `site` uses: the one that is advertised to it."""
    if site == member:
        return "INTERNAL"
    return "CONTROL" if site == ARBITER else "MIRROR"


def render(lab: Lab, site: str = ARBITER) -> str:
    return yaml.safe_dump(document(lab, site), sort_keys=False)
