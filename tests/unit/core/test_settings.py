"""Settings: what is wrong is refused with the file, the place and the reason."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from dcdr.errors import MisconfiguredError
from dcdr.settings import Settings, settings_path


def member(name: str) -> dict[str, Any]:
    user = {"username": "admin", "password_file": "secrets/admin"}
    return {
        "kafka": {"bootstrap": [f"{name}:9092"], "admin": user, "canary": {**user, "username": "canary"}},
        "connect": {"url": f"http://{name}:8083", "group_id": f"connect-{name}"},
        "endpoint": ["127.0.0.1:9092"],
    }


AGENT = {"listen": "127.0.0.1:7443", "status": "127.0.0.1:7480", "state": "state"}


def document(**changes: Any) -> dict[str, Any]:
    lab = {
        "members": {name: member(name) for name in ("dc-a", "dc-b")},
        "arbiters": ["dc-c"],
        "store": {"endpoints": ["127.0.0.1:2379"]},
        "endpoint": {"api_server": "https://127.0.0.1:6443"},
    }
    return {"scopes": {"lab": lab | changes}}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("DCDR_SETTINGS", "DCDR_LAB", "DCDR_STATE", "DCDR_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def write_and_load(content: Any) -> Settings:
        path = tmp_path / "settings.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return Settings.load(path)

    return write_and_load


def refused(load: Any, content: Any) -> str:
    with pytest.raises(MisconfiguredError) as error:
        load(content)
    return str(error.value)


def test_a_complete_file_is_read_and_what_it_leaves_out_has_defaults(load: Any) -> None:
    settings = load(document())
    scope = settings.scopes["lab"]
    assert (sorted(scope.members), scope.arbiters, scope.fence) == (["dc-a", "dc-b"], ("dc-c",), "acl")
    assert settings.drain.quiet == timedelta(milliseconds=50)


def test_an_owner_may_say_in_his_own_words_that_a_failover_need_not_ask_behind_acls(load: Any) -> None:
    words = "CHG-7: signed off by the board"
    scope = load(document(lease={"automatic": True}, failover={"even_behind_acls": words})).scopes["lab"]
    assert (scope.lease.automatic, scope.failover.even_behind_acls) == (True, words)


@pytest.mark.parametrize("names", [[], ["dc-a"], ["dc-a", "dc-b", "dc-d"]])
def test_a_scope_without_exactly_two_members_is_refused_with_a_reason(load: Any, names: list[str]) -> None:
    said = refused(load, document(members={name: member(name) for name in names}))
    assert "settings.yaml is not a valid settings file" in said
    assert f"scopes.lab: Value error, a scope has exactly two members, not {len(names)}" in said
    assert "split the scope, or make the third an arbiter" in said


def test_a_member_that_is_also_the_arbiter_is_refused(load: Any) -> None:
    assert "dc-b cannot be a member and an arbiter" in refused(load, document(arbiters=["dc-b"]))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({**document(), "scpes": {}}, "scpes: Extra inputs"),
        (document(fense="acl"), "scopes.lab.fense: Extra inputs"),
        (document(members={"dc-a": member("a"), "dc-b": {**member("b"), "url": "x"}}), "scopes.lab.members.dc-b.url"),
        (document(store={"endpoints": []}), "scopes.lab.store.endpoints"),
        (document(store={"endpoints": ["no-port"]}), "scopes.lab.store.endpoints.0"),
        (document(members={"DC A": member("a"), "dc-b": member("b")}), "scopes.lab.members"),
        ({**document(), "drain": {"deadline": "soon"}}, "drain.deadline"),
        ({**document(), "drain": {"entry_lag_limit": -1}}, "drain.entry_lag_limit"),
        (
            {**document(), "drain": {"deadline": "PT6M"}},
            "drain: Value error, operation_deadline (0:05:00) must be longer",
        ),
        (document(fence="none"), "scopes.lab.fence"),
        (document(fence="authorizer"), "needs an agent at each member, and dc-a, dc-b has none"),
        (
            document(fence="authorizer", members={name: {**member(name), "agent": AGENT} for name in ("dc-a", "dc-b")}),
            "needs kafka.mirror_canary at each member, and dc-a, dc-b has none",
        ),
        (document(lease={"automatic": True}), "lease.automatic needs fence: authorizer"),
        (document(lease={"times": {"wait": 20}}), "R2 wait (1 - rho) >= validity (1 + rho) + pause: 19.98 < 26.018 s"),
        (document(mirror={"source_connector": "mm2-source"}), "scopes.lab.mirror.source_connector"),
        (document(mirror={"checkpoint_connector": "{sorce}-{target}"}), "scopes.lab.mirror.checkpoint_connector"),
        (document(groups={"exclude": ["ok", "*"]}), "scopes.lab.groups.exclude"),
        ({}, "scopes: Field required"),
        ("", "scopes: Field required"),
    ],
)
def test_the_message_names_the_place_of_what_is_wrong(load: Any, content: Any, says: str) -> None:
    assert says in refused(load, content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("scopes: [", "is not YAML"),
        ("- lab", "expected a mapping with the key `scopes`"),
        ("just words", "expected a mapping"),
        ("1: one", "expected a mapping"),
        ("scopes: \x00", "is not YAML"),
    ],
)
def test_what_is_no_settings_document_is_refused_with_its_path(load: Any, content: str, says: str) -> None:
    said = refused(load, content)
    assert "settings.yaml" in said
    assert says in said


def test_a_file_of_other_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"scopes: \xff\xfe")
    with pytest.raises(MisconfiguredError, match=r"settings\.yaml is not YAML"):
        Settings.load(path)


def test_a_missing_file_is_refused_with_the_ways_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"nowhere.yaml: No such file .*--settings or set DCDR_SETTINGS"):
        Settings.load(tmp_path / "nowhere.yaml")


def test_the_environment_overrides_one_value_and_leaves_its_neighbours(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCDR_DRAIN__DEADLINE", "PT3M")
    settings = load({**document(), "drain": {"deadline": 5, "quiet": 0.02}})
    assert settings.drain.deadline == timedelta(minutes=3)
    assert settings.drain.quiet == timedelta(milliseconds=20)
    assert "lab" in settings.scopes


@pytest.mark.parametrize(("name", "value"), [("DCDR_DRAIN__DEADLINE", "soon"), ("DCDR_SCOPES", "{not json")])
def test_a_bad_value_in_the_environment_is_refused(
    load: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    said = refused(load, document())
    assert name.removeprefix("DCDR_").lower().replace("__", ".") in said
    assert "environment" in said


def test_the_projects_other_variables_are_no_settings(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DCDR_SETTINGS", "DCDR_LAB", "DCDR_STATE", "DCDR_CACHE", "DCDR_FAILPOINT"):
        monkeypatch.setenv(name, "x")
    assert "lab" in load(document()).scopes


def test_the_settings_file_is_the_one_given_else_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCDR_SETTINGS", "from-environment.yaml")
    assert settings_path(Path("given.yaml")) == Path("given.yaml")
    assert settings_path(None) == Path("from-environment.yaml")
    monkeypatch.delenv("DCDR_SETTINGS")
    with pytest.raises(MisconfiguredError, match="pass --settings FILE or set DCDR_SETTINGS"):
        settings_path(None)


def test_settings_cannot_be_changed_behind_the_assembly(load: Any) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(document()).drain.deadline = timedelta(0)
