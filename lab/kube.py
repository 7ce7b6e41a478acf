"""The Kubernetes API server of the lab, and the bootstrap endpoint in it.

The endpoint is a selectorless Service with an EndpointSlice. The API server refuses loopback addresses in a slice, so
the slice names addresses from 198.18.0.0/15 (set apart for benchmarks, RFC 2544); `lab.endpoint_proxy` maps them to
the clients' links, as DNAT would. The map is recorded in lab.json under `kubernetes.address_map`.
"""

from __future__ import annotations

import secrets as random_secrets
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from lab.addresses import ARBITER, CLIENTS, MEMBERS, Plan
from lab.errors import LabError
from lab.estate import Lab
from lab.record import Document, Home, write_private

NAMESPACE, SERVICE, SLICE, PORT_NAME, PORT = "default", "kafka", "kafka-dcdr", "kafka", 9092
TOKEN_USERS: Mapping[str, str] = {"lab-admin": "system:masters", "operator": "", "endpoint-proxy": ""}
RULES: Mapping[str, list[dict[str, Any]]] = {
    "operator": [
        {"apiGroups": [""], "resources": ["services"], "resourceNames": [SERVICE], "verbs": ["get", "patch", "update"]},
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "resourceNames": [SLICE],
            "verbs": ["get", "patch", "update", "watch"],
        },
    ],
    "endpoint-proxy": [
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
    ],
}
"""What each token may do in the namespace: by name where the API can limit by name, no wildcard, no secrets."""


def endpoint_addresses(plan: Plan, member: str) -> list[str]:
    """A member's brokers as the EndpointSlice names them."""
    second, third = plan.prefix.split(".")[1:]
    base = 16 * (MEMBERS.index(member) + 1)
    return [f"198.{18 + int(second) % 2}.{third}.{base + number}" for number in range(1, plan.brokers + 1)]


def address_map(plan: Plan) -> dict[str, str]:
    """Endpoint address -> the clients' link to that broker."""
    return {
        address: str(entry)
        for member in MEMBERS
        for address, entry in zip(endpoint_addresses(plan, member), plan.kafka(member, "CLIENT"), strict=True)
    }


def describe(plan: Plan, home: Home) -> Document:
    """What lab.json tells about the API server."""
    return {
        "api_server": f"https://{plan.ports['kube-apiserver/https']}",
        "ca_file": str(home.data / "kube" / "apiserver.crt"),
        "tokens": {user: str(home.secrets / f"kube-{user}.token") for user in TOKEN_USERS},
        "namespace": NAMESPACE,
        "service": SERVICE,
        "endpoint_slice": SLICE,
        "port_name": PORT_NAME,
        "endpoints": {member: [f"{one}:{PORT}" for one in endpoint_addresses(plan, member)] for member in MEMBERS},
        "address_map": address_map(plan),
    }


def command(plan: Plan, home: Home, binary: Path) -> list[str]:
    """argv of the API server; writes the token file it needs."""
    tokens = []
    for number, (user, group) in enumerate(TOKEN_USERS.items()):
        path = home.secrets / f"kube-{user}.token"
        if not path.exists():
            write_private(path, random_secrets.token_hex(16) + "\n")
        tokens.append(f"{path.read_text().strip()},{user},{number}" + (f',"{group}"' if group else ""))
    write_private(home.secrets / "kube-tokens.csv", "\n".join(tokens) + "\n")
    # The server makes this key for its own certificate before it looks for one to sign service account tokens with,
    # which nothing here uses but which it insists on.
    key = home.data / "kube" / "apiserver.key"
    address = plan.ports["kube-apiserver/https"]
    return [
        str(binary),
        f"--etcd-servers=http://{plan.ports['etcd-kube/client']}",
        f"--bind-address={address.host}",
        f"--advertise-address={endpoint_addresses(plan, MEMBERS[0])[0]}",
        f"--secure-port={address.port}",
        f"--cert-dir={home.data / 'kube'}",
        f"--token-auth-file={home.secrets / 'kube-tokens.csv'}",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--authorization-mode=RBAC",
        "--disable-admission-plugins=ServiceAccount",
        "--endpoint-reconciler-type=none",
        "--profiling=false",
        "--v=0",
    ]


class Api:
    """The API server as one of the token users sees it.

    Raises (every call): httpx.HTTPError when it does not answer.
    """

    def __init__(self, lab: Lab, user: str = "lab-admin") -> None:
        about = lab.document["kubernetes"]
        token = Path(about["tokens"][user]).read_text().strip()
        context = ssl.create_default_context(cafile=about["ca_file"])
        self.client = httpx.Client(
            base_url=about["api_server"], verify=context, timeout=5.0, headers={"Authorization": f"Bearer {token}"}
        )

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def ensure(self, collection: str, body: Document) -> None:
        """Create an object, or replace what bears its name."""
        answer = self.client.post(collection, json=body)
        if answer.status_code == 409:
            path = f"{collection}/{body['metadata']['name']}"
            current = self.client.get(path).raise_for_status().json()
            merged = {**current, **{key: value for key, value in body.items() if key != "metadata"}}
            if "spec" in body:
                merged["spec"] = {**current.get("spec", {}), **body["spec"]}
            answer = self.client.put(path, json=merged)
        if answer.is_error:
            raise LabError(f"the API server refused {body['kind']} {body['metadata']['name']}: {answer.text[:500]}")


def is_ready(lab: Lab) -> bool:
    """/readyz says ok; the certificate is there only after the server has made it."""
    try:
        with Api(lab) as api:
            return api.client.get("/readyz").text == "ok"
    except (httpx.HTTPError, OSError):
        return False


def slice_body(lab: Lab, member: str) -> Document:
    """The EndpointSlice that leads to `member`."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": SLICE,
            "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": SERVICE,
                "endpointslice.kubernetes.io/managed-by": "dcdr",
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": PORT_NAME, "port": PORT, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [address], "conditions": {"ready": True}, "zone": member}
            for address in endpoint_addresses(lab.plan, member)
        ],
    }


def remove(lab: Lab) -> None:
    """Delete the Service and its slice with all that was noted on them. Raises: LabError when that is refused."""
    core, discovery = f"/api/v1/namespaces/{NAMESPACE}", f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}"
    try:
        with Api(lab) as api:
            for path in (f"{core}/services/{SERVICE}", f"{discovery}/endpointslices/{SLICE}"):
                answer = api.client.delete(path)
                if answer.is_error and answer.status_code != 404:
                    raise LabError(f"the API server refused to delete {path}: {answer.text[:500]}")
    except httpx.HTTPError as error:
        raise LabError(f"the API server does not answer: {error!r}") from error


def seed(lab: Lab, active: str) -> str:
    """Create the Service, its slice, and the rights of the other users. Raises: LabError when refused."""
    core, discovery = f"/api/v1/namespaces/{NAMESPACE}", f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}"
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}"
    try:
        with Api(lab) as api:
            for user, rules in RULES.items():
                name = f"dcdr-{user}"
                meta = {"name": name, "namespace": NAMESPACE}
                api.ensure(
                    f"{rbac}/roles",
                    {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": rules},
                )
                api.ensure(
                    f"{rbac}/rolebindings",
                    {
                        "apiVersion": "rbac.authorization.k8s.io/v1",
                        "kind": "RoleBinding",
                        "metadata": meta,
                        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
                        "roleRef": {"kind": "Role", "name": name, "apiGroup": "rbac.authorization.k8s.io"},
                    },
                )
            api.ensure(
                f"{core}/services",
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": SERVICE, "namespace": NAMESPACE},
                    "spec": {"ports": [{"name": PORT_NAME, "port": PORT, "protocol": "TCP"}]},
                },
            )
            api.ensure(f"{discovery}/endpointslices", slice_body(lab, active))
    except httpx.HTTPError as error:
        raise LabError(f"the API server does not answer: {error!r}") from error
    return f"leads to {active}"


def proxy_config(plan: Plan, home: Home) -> Document:
    """What `lab.endpoint_proxy` reads: it looks at the API server from the clients' place, through a link."""
    return {
        "listen": str(plan.ports["endpoint-proxy/bootstrap"]),
        "api_server": str(plan.link(CLIENTS, ARBITER, "kubernetes").listen[0]),
        "tls_server_name": plan.ports["kube-apiserver/https"].host,
        "ca_file": str(home.data / "kube" / "apiserver.crt"),
        "token_file": str(home.secrets / "kube-endpoint-proxy.token"),
        "namespace": NAMESPACE,
        "service": SERVICE,
        "port_name": PORT_NAME,
        "address_map": address_map(plan),
    }


def target(lab: Lab) -> str:
    """Where the slice leads now: a member, "nowhere", several names, or "unknown" when the server does not answer."""
    names = {address: member for member in MEMBERS for address in endpoint_addresses(lab.plan, member)}
    try:
        with Api(lab) as api:
            path = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/{SLICE}"
            document = api.client.get(path).raise_for_status().json()
    except (httpx.HTTPError, OSError, ValueError):
        return "unknown"
    found = {names.get(one, one) for endpoint in document.get("endpoints") or [] for one in endpoint["addresses"]}
    return ", ".join(sorted(found)) or "nowhere"
