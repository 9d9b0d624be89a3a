"""Several models in the settings: what they fall back to, how their state is kept apart, wrong entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from online_draft.errors import ConfigError
from online_draft.launch.child import as_environment
from online_draft.launch.service import actor_places, check_targets, service_parts
from online_draft.settings import load_settings
from online_draft.settings_docs import explain, find_errors

FILE = """
threads = 2
aliases = []
[engine]
max_sequences = 4
[learner.pace]
idle_ms = 7
[[models]]
name = "one"
aliases = ["eins", "uno"]
[[models]]
name = "org/two"
target = "/models/two"
replicas = 2
engine.max_queue = 9
learner = { mode = "off" }
"""


@pytest.fixture(autouse=True)
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.toml"
    path.write_text(FILE)
    return path


def test_what_a_model_does_not_say_the_top_level_says(file: Path) -> None:
    one, two = load_settings(config=file).each
    assert (one.served_name, one.aliases, one.target, one.replicas) == ("one", ("eins", "uno"), "embedded", 1)
    assert (two.served_name, two.aliases, two.target, two.replicas) == ("org/two", (), "/models/two", 2)
    assert (one.engine.max_sequences, one.engine.max_queue) == (4, 64)
    assert (two.engine.max_sequences, two.engine.max_queue) == (4, 9)
    assert (one.learner.mode, two.learner.mode, two.learner.pace.idle_ms) == ("idle", "off", 7)
    assert one.threads == two.threads == 2


def test_one_model_is_one_of_one() -> None:
    settings = load_settings({"target": "/models/tiny", "aliases": ["small"]})
    assert settings.each == (settings,) and settings.of("small") is settings
    assert settings.artifacts == str(settings.state_dir / "artifacts") and settings.realm == ""


def test_a_table_of_tables_says_the_same(file: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.toml"
    table.write_text(
        FILE.replace('[[models]]\nname = "one"', "[models.one]").replace(
            '[[models]]\nname = "org/two"', '[models."org/two"]'
        )
    )
    assert load_settings(config=table) == load_settings(config=file)


def test_models_share_no_state(file: Path, tmp_path: Path) -> None:
    settings = load_settings(
        {"state_dir": tmp_path / "state", "models": [{"name": "two"}, {"name": "three"}]}
    )
    parts = service_parts(settings, "redis://h:1/0", "key")
    configs = [part.config for part in parts]
    assert configs[0].target == configs[1].target  # so that only the realm tells them apart
    for name in ("store", "cache_dir", "keys", "model_name"):
        assert getattr(configs[0], name) != getattr(configs[1], name)
    assert (configs[0].store, configs[0].keys.load) == (str(tmp_path / "state" / "artifacts"), "od:load")
    first, second = (config.keys for config in configs)
    own = {name for name in dir(first) if isinstance(getattr(type(first), name, None), property)}
    assert {name for name in own if getattr(first, name) == getattr(second, name)} == {
        "limit_epoch",
        "ingresses",
    }
    assert second.status("learner") != first.status("learner") and second.limit("a") == first.limit("a")
    (one, place), (two, other) = actor_places(settings, parts, ["f", "f"], "ns")
    assert (one.served_name, place["realm"], place["neighbours"]) == ("two", "", ("three",))
    assert (two.served_name, other["realm"], other["neighbours"]) == ("three", "three", ("",))


def test_models_on_one_gpu_share_it(tmp_path: Path) -> None:
    models = [{"name": "a"}, {"name": "b"}, {"name": "c", "device": "cpu"}]
    settings = load_settings({"device": "cuda", "models": models, "state_dir": tmp_path})
    parts = service_parts(settings, "redis://h:1/0", "key")
    assert [part.gpus for part in parts] == [0.25, 0.25, 0.0]
    places = actor_places(settings, parts, ["f", "g", "h"], "ns")
    assert [place["gpu_share"] for _, place in places] == [0.125] * 3


def test_a_model_is_found_by_its_names_and_by_what_it_left(tmp_path: Path, file: Path) -> None:
    settings = load_settings({"state_dir": tmp_path}, file)
    assert settings.of(None).served_name == settings.of("uno").served_name == "one"
    assert settings.of("org/two").artifacts == str(tmp_path / "artifacts" / "models" / "org%2Ftwo")
    Path(settings.of("org/two").artifacts).mkdir(parents=True)
    unaware = load_settings({"state_dir": tmp_path})
    assert unaware.of("org/two").artifacts == settings.of("org/two").artifacts
    assert [model.served_name for model in unaware.further] == ["org/two"]
    with pytest.raises(ConfigError, match=r"--model: 'nine' is none of online-draft, org/two"):
        unaware.of("nine")


def test_a_child_sees_the_same_models(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = load_settings({"state_dir": tmp_path}, file)
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_all_of_a_model_is_explained(file: Path) -> None:
    found = {each.name: each for each in explain(config=file) if each.name.startswith("models")}
    assert found["models"].value == ["one", "org/two"]
    shown = {name: (each.value, each.source) for name, each in found.items()}
    assert shown["models.one.aliases"] == (["eins", "uno"], "file")
    assert shown["models.one.target"] == ("embedded", "default")
    assert shown["models.one.threads"] == (2, "file")
    assert shown["models.org/two.engine.max_queue"] == (9, "file")
    assert all(each.doc for each in found.values())


@pytest.mark.parametrize(
    ("models", "field", "says"),
    [
        (5, "models", "[[models]]"),
        ([5], "models.0", "a table"),
        ([{"target": "embedded"}], "models.0.name", "1 to 128"),
        ([{"name": "a b"}], "models.0.name", "'a b'"),
        ([{"name": "a"}, {"name": "a"}], "models.a.name", "two models"),
        ([{"name": "a", "aliases": ["b"]}, {"name": "b"}], "models.a.aliases", "a name of model b"),
        ([{"name": "a", "aliases": "b"}], "models.a.aliases", "list of names"),
        ({"a": {"name": "b"}}, "models.a.name", "leave it out"),
        ({"a": {"port": 1}}, "models.a.port", "name, aliases, target"),
        ({"a": {"target": ""}}, "models.a.target", "embedded"),
        ({"a": {"target": 5}}, "models.a.target", "string"),
        ({"a": {"replicas": 0}}, "models.a.replicas", "1"),
        ({"a": {"engine": {"nodes": 1}}}, "models.a.engine", "tree_nodes"),
        ({"a": {"engine": {"tree_nodes": -1}}}, "models.a.engine.tree_nodes", "negative"),
        ({"a": {"learner": {"gate": {"alpha": 2}}}}, "models.a.learner.gate.alpha", "between"),
        ({"a": {"scaling": {"ingresses": 2}}}, "models.a.scaling.ingresses", "of all models"),
    ],
)
def test_a_wrong_entry_is_named_with_what_is_accepted(models: Any, field: str, says: str) -> None:
    (error,) = find_errors({"models": models})
    assert error.field == field and says in str(error)


def test_names_belong_to_the_entries(file: Path) -> None:
    for flags in ({"model_name": "x"}, {"aliases": ["x"]}):
        (error,) = find_errors(flags, file)
        assert error.field == next(iter(flags)) and "each has its own" in str(error)
    (error,) = find_errors({"aliases": ["online-draft"]})
    assert error.field == "aliases"


def test_a_target_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = load_settings({"models": [{"name": "a"}, {"name": "b", "target": str(tmp_path / "nowhere")}]})
    with pytest.raises(ConfigError, match=r"^models\.b\.target: must be embedded, a directory"):
        check_targets(settings)
