"""One frozen settings model, read from YAML, overridden by the environment (`DCDR_DRAIN__DEADLINE=PT3M`).

Secrets are file paths: no password ever stands in the settings, a workflow input or a history. The Temporal
connection uses Temporal's own profile (`temporalio.envconfig`) and is not repeated here.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from dcdr.bounds import PRESETS, LeaseTiming, Preset
from dcdr.errors import MisconfiguredError
from dcdr.model import FailoverPolicy

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
HostPort = Annotated[str, StringConstraints(pattern=r"^[^\s,:/]+:\d{1,5}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Credentials(_Section):
    """A SASL/PLAIN user; the password is the content of a file, without the final newline."""

    username: str
    password_file: Path


class KafkaSettings(_Section):
    """How this service reaches one data center's Kafka cluster.

    `admin` is a super user; `canary` is an ordinary principal with WRITE on `canary_topic` and READ on the group
    of the same name: what the fence does to it, it does to every user. `mirror_canary` is one of the mirror's
    principals in the brokers' authorizer, with WRITE on `canary_topic` and nothing else: what the mirror's gate does to
    it, it does to the mirror.
    """

    bootstrap: Annotated[tuple[HostPort, ...], Field(min_length=1)]
    security_protocol: Literal["SASL_PLAINTEXT", "PLAINTEXT"] = "SASL_PLAINTEXT"
    admin: Credentials
    canary: Credentials
    mirror_canary: Credentials | None = None
    """Needed with `fence: authorizer`: only there the mirror has a gate."""
    canary_topic: str = "dcdr-canary.internal"
    ledger_topic: str = "dcdr-ledger.internal"
    health_topic: str = "dcdr-health.internal"


class ConnectSettings(_Section):
    """One data center's Connect cluster, the one that runs the mirror *towards* this data center."""

    url: str
    group_id: str
    offsets_topic: str = "connect-offsets.internal"
    internal_topics: tuple[str, ...] = (
        "connect-configs.internal",
        "connect-offsets.internal",
        "connect-status.internal",
    )
    credentials: Credentials | None = None


class TlsSettings(_Section):
    """PEM files: our chain, its key, and the authority of whoever we talk to. They are read again when they change."""

    certificate: Path
    key: Path
    ca: Path


class AgentSettings(_Section):
    """A data center's agent. `listen`: where its brokers ask for the marker; `status`: metrics, /healthz, /readyz."""

    listen: HostPort
    status: HostPort
    state: Path
    """A folder on a durable disk, one for each agent: the highest epoch seen, and which agent this is."""
    tls: TlsSettings | None = None
    """Without it `listen` must be a loopback address, as the brokers' authorizer demands, too."""

    @model_validator(mode="after")
    def _no_plain_text_on_the_network(self) -> Self:
        host = self.listen.rpartition(":")[0]
        if self.tls is None and not (host == "localhost" or host.startswith("127.")):
            raise ValueError(
                f"listen is {self.listen}, and there is no tls: who may change a marker may open a cluster. "
                "Give certificate, key and ca, or listen on a loopback address"
            )
        return self


class MemberSettings(_Section):
    """A data-bearing data center. `endpoint` is what clients bootstrap from: as the EndpointSlice holds it."""

    kafka: KafkaSettings
    connect: ConnectSettings
    endpoint: Annotated[tuple[HostPort, ...], Field(min_length=1)]
    agent: AgentSettings | None = None


class EtcdSettings(_Section):
    """The lease store: all members' client endpoints; keys live under `prefix`."""

    endpoints: Annotated[tuple[HostPort, ...], Field(min_length=1)]
    prefix: str = "/dcdr"
    request_timeout: timedelta = timedelta(seconds=2)


class KubernetesEndpointSettings(_Section):
    """The bootstrap endpoint: the EndpointSlice of a selectorless Service, which is rewritten at a flip."""

    api_server: str
    ca_file: Path | None = None
    token_file: Path | None = None
    namespace: str = "default"
    endpoint_slice: str = "kafka-dcdr"
    port_name: str = "kafka"
    request_timeout: timedelta = timedelta(seconds=5)


class LeaseSettings(_Section):
    """The lease's waiting times: a preset, and single ones (seconds) that replace its own."""

    preset: Preset = Preset.STANDARD
    times: dict[str, float] = {}
    automatic: bool = False
    """Take the lease over when its holder shows no sign of life."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _ = self.timing
        return self

    @property
    def timing(self) -> LeaseTiming:
        """Raises: ValueError with the inequality and the numbers."""
        return LeaseTiming(**{**PRESETS[self.preset].model_dump(), **self.times})


class MirrorSettings(_Section):
    """Connector names; `{source}` and `{target}` are data center names."""

    source_connector: str = "mm2-source.{source}-to-{target}"
    checkpoint_connector: str = "mm2-checkpoint.{source}-to-{target}"
    heartbeat_connector: str = "mm2-heartbeat.{source}-to-{target}"

    @field_validator("*")
    @classmethod
    def _tells_directions_apart(cls, template: str) -> str:
        try:
            there, back = template.format(source="a", target="b"), template.format(source="b", target="a")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError("a name may hold {source} and {target}, and no other braces") from error
        if there == back:
            raise ValueError("both directions would have the same connector: put {source} and {target} into the name")
        return template


class GroupSettings(_Section):
    """Consumer groups to carry over: all but Connect's workers and the canary, which are left out by their exact names.

    `exclude`: more to leave out, names that match fully (regular expressions). No pattern by default: a user's
    `connect-clicks` (a sink connector's group) must be carried. Every group left out is named, with the reason.
    """

    exclude: tuple[str, ...] = ()

    @field_validator("exclude")
    @classmethod
    def _readable(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        return patterns


class Fence(StrEnum):
    """What keeps users out of a side that is not active."""

    ACL = "acl"
    """DENY rules: they stay as they are until somebody changes them."""
    AUTHORIZER = "authorizer"
    """Our authorizer in the brokers: closed by itself when the lease is not confirmed any more."""


class ScopeSettings(_Section):
    """What fails over together: exactly two members, any number of arbiters."""

    members: dict[Name, MemberSettings]
    arbiters: tuple[Name, ...] = ()
    store: EtcdSettings
    endpoint: KubernetesEndpointSettings
    fence: Fence = Fence.ACL
    lease: LeaseSettings = LeaseSettings()
    mirror: MirrorSettings = MirrorSettings()
    groups: GroupSettings = GroupSettings()
    failover: FailoverPolicy = FailoverPolicy()

    @model_validator(mode="after")
    def _two_members(self) -> Self:
        if len(self.members) != 2:
            raise ValueError(
                f"a scope has exactly two members, not {len(self.members)} ({', '.join(self.members) or 'none'}); "
                "three data-bearing data centers are not supported: split the scope, or make the third an arbiter"
            )
        both = set(self.members) & set(self.arbiters)
        if both:
            raise ValueError(f"{', '.join(sorted(both))} cannot be a member and an arbiter at once")
        without = [name for name, member in self.members.items() if member.agent is None]
        if self.fence is Fence.AUTHORIZER and without:
            raise ValueError(
                f"fence: authorizer needs an agent at each member, and {', '.join(without)} has none: nobody would "
                "tell its brokers to open. Add members.*.agent, or set fence: acl"
            )
        blind = [name for name, member in self.members.items() if member.kafka.mirror_canary is None]
        if self.fence is Fence.AUTHORIZER and blind:
            raise ValueError(
                f"fence: authorizer needs kafka.mirror_canary at each member, and {', '.join(blind)} has none: nobody "
                "could see whether the mirror's gate is closed. Make a user with ALLOW WRITE on the canary topic on "
                "both clusters, add it to dcdr.authorizer.mirror.principals on every broker, and name it here"
            )
        if self.fence is Fence.ACL and self.lease.automatic and not self.failover.even_behind_acls:
            raise ValueError(
                "lease.automatic needs fence: authorizer: with fence: acl a side that is cut off stays open, and two "
                "could be written at once. Install the authorizer, or leave lease.automatic out; "
                "an owner who accepts that says so in failover.even_behind_acls"
            )
        return self


class DrainSettings(_Section):
    """Deadlines and limits of a drained switchover."""

    deadline: timedelta = timedelta(seconds=60)
    """From each cut until its drain is proven; past it the source is opened again."""
    operation_deadline: timedelta = timedelta(minutes=5)
    """From the intent until the handover; past it nobody hands over, and whoever finds the operation may undo it."""
    quiet: timedelta = timedelta(milliseconds=50)
    """Two looks at the source's ends, this far apart, must agree (design, section 9)."""
    entry_lag_limit: Annotated[int, Field(ge=0)] = 10_000
    """Records the mirror may be behind when a switchover starts; above it, preflight refuses."""
    lagging_group_budget: Annotated[int, Field(ge=0)] = 20_000
    """Records read per partition to place a lagging group exactly; beyond it MM2's value is taken and said so."""

    @model_validator(mode="after")
    def _leaves_time_to_drain(self) -> Self:
        if self.operation_deadline <= self.deadline:
            raise ValueError(
                f"operation_deadline ({self.operation_deadline}) must be longer than deadline ({self.deadline}): a "
                "drain that took its whole time could not be handed over any more"
            )
        return self


class Settings(BaseSettings):
    """Everything `worker` and `starter` are told from outside."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="DCDR_", env_nested_delimiter="__")

    scopes: dict[Name, ScopeSettings]
    drain: DrainSettings = DrainSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read `path` (YAML), then let the environment override single values.

        Raises: MisconfiguredError with the path, the place in the file and what is wrong with it.
        """
        try:
            document = yaml.safe_load(path.read_text()) or {}
        except OSError as error:
            raise MisconfiguredError(
                f"cannot read settings {path}: {error.strerror}; pass --settings or set DCDR_SETTINGS"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise MisconfiguredError(f"{path} is not YAML: {error}") from error
        if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
            raise MisconfiguredError(f"{path}: expected a mapping with the key `scopes` at the top")
        try:
            return cls(**document)
        except SettingsError as error:
            raise MisconfiguredError(f"{path} with the environment's DCDR_ variables: {error}") from error
        except ValidationError as error:
            raise MisconfiguredError(_explained(path, error)) from error


def settings_path(given: Path | None) -> Path:
    """The settings file to read: the one given, else `DCDR_SETTINGS`."""
    if given is not None:
        return given
    if named := os.environ.get("DCDR_SETTINGS"):
        return Path(named)
    raise MisconfiguredError("no settings file: pass --settings FILE or set DCDR_SETTINGS")


def _explained(path: Path, error: ValidationError) -> str:
    def line(item: Any) -> str:
        place = ".".join(str(part) for part in item["loc"]) or "top level"
        return f"  {place}: {item['msg']}{_from_environment(item['loc'])}"

    return "\n".join([f"{path} is not a valid settings file:", *(line(item) for item in error.errors())])


def _from_environment(place: tuple[int | str, ...]) -> str:
    """A note where a variable overrides the value at `place`, or what it stands in."""
    names = {"DCDR_" + "__".join(map(str, place[:depth])).upper() for depth in range(1, len(place) + 1)}
    found = sorted(name for name in os.environ if name.upper() in names)
    return f" (set by {' and '.join(found)} in the environment)" if found else ""
