import os
from pathlib import Path

import pytest
from pydantic import BaseModel

from paymaster.kernel.errors import Refusal
from paymaster.settings import Api, Settings, explain, load_settings, masked, reference

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for variable in [name for name in os.environ if name.startswith("PAYMASTER_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def explained(settings: Settings) -> dict[str, tuple[str, str]]:
    return {name: (value, origin) for name, value, origin in explain(settings)}


def test_defaults_are_a_working_installation_without_secrets():
    settings = load_settings()
    assert settings.database.url is None
    assert settings.database.data_dir == Path(".paymaster")
    assert settings.api.host == "127.0.0.1"
    assert {origin for _, _, origin in explain(settings)} == {"default"}


def test_environment_goes_over_file_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "paymaster.toml").write_text(
        '[api]\nport = 9000\npage_limit = 50\n[secrets]\nstores = ["file"]\n'
    )
    monkeypatch.setenv("PAYMASTER__API__PORT", "9001")
    settings = load_settings()
    assert (settings.api.port, settings.api.page_limit) == (9001, 50)
    assert settings.secrets.stores == ("file",)
    shown = explained(settings)
    assert shown["api.port"] == ("9001", "environment PAYMASTER__API__PORT")
    assert shown["api.page_limit"] == ("50", "file paymaster.toml")
    assert shown["api.host"] == ("127.0.0.1", "default")


def test_lists_and_tables_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAYMASTER__SECRETS__STORES", "file, environment")
    monkeypatch.setenv("PAYMASTER__DATABASE__SERVERS__EU1", "postgresql://app@eu1.internal/pm")
    settings = load_settings()
    assert settings.secrets.stores == ("file", "environment")
    assert settings.database.servers == {"eu1": "postgresql://app@eu1.internal/pm"}
    assert explained(settings)["database.servers"][1].startswith("environment ")


@pytest.mark.parametrize(
    ("variable", "value", "pointer"),
    [
        ("PAYMASTER__API__PORT", "0", "api.port"),
        ("PAYMASTER__API__PORT", "many", "api.port"),
        ("PAYMASTER__API__PROT", "80", "api.prot"),
        ("PAYMASTER__APY__PORT", "80", "PAYMASTER__APY__PORT"),
        ("PAYMASTER__LOG__FORMAT", "xml", "log.format"),
        ("PAYMASTER__SECRETS__STORES", "file,vault9", "secrets.stores.1"),
        ("PAYMASTER__SECRETS__STORES", " , ", "secrets.stores"),
        ("PAYMASTER__DATABASE__SERVERS__MAIN", "x", "database.servers"),
        ("PAYMASTER__API__PUBLIC_URL", "ftp://x", "api.public_url"),
        ("PAYMASTER__API__PUBLIC_URL", "http://x/", "api.public_url"),
    ],
)
def test_a_wrong_or_unknown_setting_is_named(
    variable: str, value: str, pointer: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(Refusal) as caught:
        load_settings()
    assert caught.value.slug == "settings-invalid"
    assert [problem.pointer for problem in caught.value.problems] == [pointer]


def test_a_fault_does_not_repeat_the_value(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAYMASTER__API__PORT", "very-private")
    with pytest.raises(Refusal) as caught:
        load_settings()
    assert "very-private" not in repr(caught.value.problems) + str(caught.value)


def test_the_named_file_must_be_there_and_be_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for make in (lambda: None, lambda: (tmp_path / "own.toml").write_text("[api")):
        make()
        with pytest.raises(Refusal) as caught:
            load_settings(tmp_path / "own.toml")
        assert caught.value.slug == "settings-file"
    (tmp_path / "own.toml").write_text("[api]\nport = 9002\n")
    monkeypatch.setenv("PAYMASTER_CONFIG", str(tmp_path / "own.toml"))
    assert load_settings().api.port == 9002
    (tmp_path / "own.toml").write_text("[api]\nprot = 9002\n")
    with pytest.raises(Refusal) as caught:
        load_settings()
    assert caught.value.slug == "settings-invalid"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://app:s3cr3t@db/pm", "postgresql://app:***@db/pm"),
        ("postgresql://app:s3@cr:3t@db/pm", "postgresql://app:***@db/pm"),
        ("postgresql://app@db/pm?password=s3cr3t&x=1", "postgresql://app@db/pm?password=***&x=1"),
        ("host=db password='s3 cr3t' user=app", "host=db password=*** user=app"),
        ("postgresql://app@db/pm", "postgresql://app@db/pm"),
    ],
)
def test_passwords_in_addresses_are_masked(address: str, shown: str):
    assert masked(address) == shown


def test_no_password_is_shown_anywhere(monkeypatch: pytest.MonkeyPatch):
    secret = "postgresql://app:s3cr3t@db/pm"
    monkeypatch.setenv("PAYMASTER__DATABASE__URL", secret)
    monkeypatch.setenv("PAYMASTER__DATABASE__OWNER_URL", secret)
    monkeypatch.setenv("PAYMASTER__DATABASE__SERVERS__EU1", secret)
    settings = load_settings()
    assert settings.database.url == secret
    assert "s3cr3t" not in repr(settings) + str(settings) + repr(explain(settings))
    assert explained(settings)["database.servers"][0] == "eu1=postgresql://app:***@db/pm"


def test_settings_made_in_code_say_so():
    settings = Settings(api=Api(port=1234))
    assert settings.api.port == 1234
    assert explained(settings)["api.port"][1] == "code"


def test_every_setting_is_described_with_its_unit():
    for group in Settings.model_fields.values():
        model = group.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        for name, field in model.model_fields.items():
            assert field.description, name
            assert field.description.endswith("."), name
            for word in ("timeout", "interval", "lease"):
                assert word not in name or name.endswith(("_seconds", "_milliseconds")), name


def test_the_reference_page_is_the_generated_one():
    page = ROOT / "docs" / "reference" / "settings.md"
    assert page.read_text() == reference(), "write paymaster.settings.reference() to this page"
