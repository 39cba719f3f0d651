"""The environment: what it may say, and what happens when it says something else."""

import pytest

from mop_config.errors import SettingsError
from mop_config.server.build import UrlRules
from mop_config.server.settings import ProcessSettings, Settings


def test_the_defaults_are_the_guides() -> None:
    """An empty environment serves config/endpoints.txt as the guide does."""
    settings = Settings.from_environ({})
    assert settings == Settings()
    assert settings.source == "config/endpoints.txt"
    assert settings.rules == UrlRules("https", "/api/v1", "", None, None)
    assert ProcessSettings.from_environ({}) == ProcessSettings("127.0.0.1", 8000, 2, 16, "gthread")


def test_everything_can_be_set() -> None:
    """Each variable reaches its setting."""
    settings = Settings.from_environ(
        {
            "ENDPOINT_CONFIG_FILE": "/etc/x.txt",
            "ENDPOINT_PROTOCOL": "HTTP",
            "ENDPOINT_API_PATH": "v2",
            "ENDPOINT_SOCKET_PATH": "/ws",
            "ENDPOINT_DEFAULT_PORT": "8443",
            "ENDPOINT_SOCKET_PORT": "9000",
            "ENDPOINT_STRICT": "yes",
            "ENDPOINT_ALLOW_EMPTY": "1",
            "ENDPOINT_MAX_BYTES": "100",
            "ENDPOINT_POLL_INTERVAL": "0.5",
            "ENDPOINT_STATE_DIR": "/var/x",
            "ENDPOINT_MAX_AGE": "0",
            "ENDPOINT_CORS_ORIGINS": "https://A.com, http://b.com:81/",
            "TRUSTED_HOSTS": "a.com, .b.com",
            "SERVICE_NAME": "mine",
            "HOME": "/",
        }
    )
    assert settings == Settings(
        source="/etc/x.txt",
        rules=UrlRules("http", "/v2", "/ws", 8443, 9000),
        strict=True,
        allow_empty=True,
        max_bytes=100,
        poll_interval=0.5,
        state_dir="/var/x",
        max_age=0,
        cors_origins=("https://a.com", "http://b.com:81"),
        trusted_hosts=("a.com", ".b.com"),
        service_name="mine",
    )
    assert ProcessSettings.from_environ(
        {"HOST": "::1", "PORT": "0", "WEB_CONCURRENCY": "4", "THREADS": "8", "WORKER_CLASS": "sync"}
    ) == ProcessSettings("[::1]", 0, 4, 8, "sync")


def test_a_path_that_is_set_but_empty_is_empty() -> None:
    """Unset means /api/v1; empty means none."""
    assert Settings.from_environ({"ENDPOINT_API_PATH": ""}).rules.api_path == ""


def test_the_state_folder_comes_from_systemd_unless_named() -> None:
    """systemd gives a list where a unit has several."""
    environ = {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}
    assert Settings.from_environ(environ).state_dir == "/var/lib/a"
    environ["ENDPOINT_STATE_DIR"] = "/mine"
    assert Settings.from_environ(environ).state_dir == "/mine"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ENDPOINT_CONFIG_FILE", "http://a.com/x"),
        ("ENDPOINT_PROTOCOL", "ftp"),
        ("ENDPOINT_API_PATH", "/a b"),
        ("ENDPOINT_API_PATH", "/a?b"),
        ("ENDPOINT_API_PATH", "https://a.com/"),
        ("ENDPOINT_SOCKET_PATH", "/a#b"),
        ("ENDPOINT_SOCKET_PORT", "0"),
        ("ENDPOINT_SOCKET_PORT", "http"),
        ("ENDPOINT_STRICT", "maybe"),
        ("ENDPOINT_ALLOW_EMPTY", "2"),
        ("ENDPOINT_MAX_BYTES", "8M"),
        ("ENDPOINT_MAX_BYTES", "0"),
        ("ENDPOINT_MAX_BYTES", "-1"),
        ("ENDPOINT_MAX_BYTES", "٣"),
        ("ENDPOINT_POLL_INTERVAL", "-1"),
        ("ENDPOINT_POLL_INTERVAL", "nan"),
        ("ENDPOINT_POLL_INTERVAL", "inf"),
        ("ENDPOINT_MAX_AGE", "1.5"),
        ("ENDPOINT_CORS_ORIGINS", "a.com"),
        ("ENDPOINT_CORS_ORIGINS", "https://a.com/path"),
        ("ENDPOINT_CORS_ORIGINS", "*, https://a.com"),
        ("TRUSTED_HOSTS", "a_b.com"),
        ("TRUSTED_HOSTS", "a.com:80"),
        ("ENDPOINT_API_PATH", "/a%"),
        ("ENDPOINT_API_PATH", "/a\udcff"),
        ("ENDPOINT_CONFIG_FILE", "etcd://localhost:2379/key"),
    ],
)
def test_a_malformed_value_names_variable_value_and_what_is_allowed(
    variable: str, value: str
) -> None:
    """A clear error at start, not a surprise later."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({variable: value})
    assert caught.value.variable == variable
    assert caught.value.value == value
    assert caught.value.allowed in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HOST", "a b"),
        ("HOST", "0.0.0.0:80"),
        ("PORT", "65536"),
        ("PORT", "x"),
        ("WEB_CONCURRENCY", "0"),
        ("THREADS", "-1"),
        ("WORKER_CLASS", "tornado"),
    ],
)
def test_a_malformed_process_value_is_refused_too(variable: str, value: str) -> None:
    """gunicorn never sees it."""
    with pytest.raises(SettingsError, match=variable):
        ProcessSettings.from_environ({variable: value})


@pytest.mark.parametrize("value", ["http", "0", "65536", "8 0"])
def test_a_default_port_that_is_none_is_ignored_with_a_warning(value: str) -> None:
    """As in the guide."""
    settings = Settings.from_environ({"ENDPOINT_DEFAULT_PORT": value})
    assert settings.rules.default_port is None
    (warning,) = settings.warnings
    assert "ENDPOINT_DEFAULT_PORT" in warning


def test_an_unknown_variable_is_a_warning_with_the_nearest_known_one() -> None:
    """A typo must not silently mean the default."""
    (warning,) = Settings.from_environ({"ENDPOINT_CONFG_FILE": "x"}).warnings
    assert "ENDPOINT_CONFG_FILE" in warning
    assert "ENDPOINT_CONFIG_FILE?" in warning


def test_an_origin_is_spelled_as_browsers_spell_it() -> None:
    """Without the default port."""
    environ = {"ENDPOINT_CORS_ORIGINS": "https://A.com:443 http://b.com:80/ http://c.com:81"}
    origins = Settings.from_environ(environ).cors_origins
    assert origins == ("https://a.com", "http://b.com", "http://c.com:81")


@pytest.mark.parametrize("name", ["ENDPOINT_TOKENS", "ENDPOINT_TOKENS_FILE"])
def test_a_server_that_knows_no_tokens_does_not_start_without_them(name: str) -> None:
    """Who sets them wants nobody else to be answered; and the token is not echoed."""
    with pytest.raises(SettingsError, match=name) as caught:
        Settings.from_environ({name: "secret"})
    assert "secret" not in str(caught.value)


def test_a_setting_of_another_version_is_passed_over_with_a_warning() -> None:
    """It is no typo."""
    (warning,) = Settings.from_environ({"ENDPOINT_PROBE_INTERVAL": "5"}).warnings
    assert warning == "ENDPOINT_PROBE_INTERVAL is not supported by this version: it is ignored"
