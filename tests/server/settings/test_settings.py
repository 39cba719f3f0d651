"""The settings from environment variables: defaults, values and errors."""

import pytest

from mop_config.errors import SettingsError
from mop_config.server.settings import ProcessSettings, Settings, UrlRules


def test_the_defaults_are_the_guides() -> None:
    """An empty environment serves config/endpoints.txt as the guide does."""
    settings = Settings.from_environ({})
    assert settings == Settings()
    assert settings.source == "config/endpoints.txt"
    assert settings.rules == UrlRules("https", "/api/v1", "", None, None)
    assert ProcessSettings.from_environ({}) == ProcessSettings("127.0.0.1", 8000, 2, 16, "asgi")


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
            "ENDPOINT_STRICT": "True",
            "ENDPOINT_ALLOW_EMPTY": "1",
            "ENDPOINT_MAX_BYTES": "100",
            "ENDPOINT_POLL_INTERVAL": "0.5",
            "ENDPOINT_STATE_DIR": "/var/x",
            "ENDPOINT_MAX_AGE": "0",
            "ENDPOINT_HEALTH_PATH": "alive",
            "ENDPOINT_HEALTH_CONTAINS": "mop-api",
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
        health_path="/alive",
        health_contains="mop-api",
        cors_origins=("https://a.com", "http://b.com:81"),
        trusted_hosts=("a.com", ".b.com"),
        service_name="mine",
    )
    assert ProcessSettings.from_environ(
        {"HOST": "::1", "PORT": "0", "WEB_CONCURRENCY": "4", "THREADS": "8", "WORKER_CLASS": "sync"}
    ) == ProcessSettings("[::1]", 0, 4, 8, "sync")


def test_a_path_that_is_set_but_empty_is_empty() -> None:
    """An unset path means /api/v1, and an empty path means no path."""
    assert Settings.from_environ({"ENDPOINT_API_PATH": ""}).rules.api_path == ""


def test_the_state_folder_comes_from_systemd_unless_named() -> None:
    """The first folder of systemd's STATE_DIRECTORY is the default of ENDPOINT_STATE_DIR."""
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
        ("ENDPOINT_ALLOW_EMPTY", "on"),
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
        ("TRUSTED_HOSTS", "a!b.com"),
        ("TRUSTED_HOSTS", "a.com:80"),
        ("ENDPOINT_API_PATH", "/a%"),
        ("ENDPOINT_API_PATH", "/a\udcff"),
        ("ENDPOINT_CONFIG_FILE", "etcd://localhost:2379"),
        ("ENDPOINT_CONFIG_FILE", "etcd:///key"),
        ("ENDPOINT_CONFIG_FILE", "etcd://a:x/key"),
        ("ENDPOINT_CONFIG_FILE", "etcd://::1/key"),
        ("ENDPOINT_CONFIG_FILE", "etcd://a,/key"),
        ("ENDPOINT_PROBE_INTERVAL", "often"),
        ("ENDPOINT_SIGNING_TTL", "5"),
        ("ENDPOINT_SIGNING_TTL", "1w"),
    ],
)
def test_a_malformed_value_names_variable_value_and_what_is_allowed(
    variable: str, value: str
) -> None:
    """A malformed value is an error of one line with the allowed values."""
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
        ("WORKER_CLASS", "gevent"),
    ],
)
def test_a_malformed_process_value_is_refused_too(variable: str, value: str) -> None:
    """A malformed value for gunicorn is an error before gunicorn uses it."""
    with pytest.raises(SettingsError, match=variable):
        ProcessSettings.from_environ({variable: value})


@pytest.mark.parametrize("value", ["http", "0", "65536", "8 0"])
def test_a_default_port_that_is_none_is_ignored_with_a_warning(value: str) -> None:
    """As in the guide, a bad default port is ignored with a warning."""
    settings = Settings.from_environ({"ENDPOINT_DEFAULT_PORT": value})
    assert settings.rules.default_port is None
    (warning,) = settings.warnings
    assert "ENDPOINT_DEFAULT_PORT" in warning


def test_an_unknown_variable_is_a_warning_with_the_nearest_known_one() -> None:
    """A typo in a variable's name is a warning, so the default is not used silently."""
    (warning,) = Settings.from_environ({"ENDPOINT_CONFG_FILE": "x"}).warnings
    assert "ENDPOINT_CONFG_FILE" in warning
    assert "ENDPOINT_CONFIG_FILE?" in warning


@pytest.mark.parametrize(
    ("start", "whole"),
    [
        ("ENDPOINT_CORS", "ENDPOINT_CORS_ORIGINS"),
        ("ENDPOINT_PROBE", "ENDPOINT_PROBE_INTERVAL"),
        ("ENDPOINT_MIN", "ENDPOINT_MIN_ENDPOINTS"),
    ],
)
def test_the_start_of_a_name_is_nearest_to_that_name(start: str, whole: str) -> None:
    """The known name that begins with the given one is nearer than a name of the same length."""
    (warning,) = Settings.from_environ({start: "x"}).warnings
    assert f"did you mean {whole}?" in warning


def test_an_origin_is_spelled_as_browsers_spell_it() -> None:
    """An origin is normalised without its default port."""
    environ = {"ENDPOINT_CORS_ORIGINS": "https://A.com:443 http://b.com:80/ http://c.com:81"}
    origins = Settings.from_environ(environ).cors_origins
    assert origins == ("https://a.com", "http://b.com", "http://c.com:81")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ENDPOINT_TOKENS", "good-enough-token-1, se cret"),
        ("ENDPOINT_TOKENS", "secret,,"),
        ("ENDPOINT_ALERT_WEBHOOK", "ftp://secret.example/hook"),
        ("ENDPOINT_ALERT_WEBHOOK", "https://a.example/secret hook?secret"),
        ("ENDPOINT_ALERT_WEBHOOK", "https://a.example/hook?secret hook"),
        ("ENDPOINT_ALERT_WEBHOOK", "https://a.example/hook?secret\r\nX: y"),
        ("ENDPOINT_ALERT_SECRET", "secret"),
        ("ENDPOINT_ALERT_SECRET", "whsec_c2VjcmV0"),
        ("ENDPOINT_CONFIG_FILE", "etcd://user:secret@localhost/k"),
        ("ENDPOINT_CONFIG_FILE", "etcd://user:sec/secret@localhost/k"),
        ("ENDPOINT_CONFIG_FILE", "http://user:secret@localhost/k"),
    ],
)
def test_a_malformed_secret_is_not_echoed(variable: str, value: str) -> None:
    """The error has no secret, since it is logged."""
    with pytest.raises(SettingsError, match=variable) as caught:
        Settings.from_environ({variable: value})
    assert "secret" not in str(caught.value)


def test_a_secret_does_not_show_where_settings_are_printed() -> None:
    """``repr`` has no secret; the names of state files depend on it."""
    environ = {
        "ENDPOINT_TOKENS": "a-token-of-some-length",
        "ENDPOINT_ALERT_WEBHOOK": "https://hooks.example/T0P-SECRET?k=1",
        "ENDPOINT_PROBE_INTERVAL": "30",
        "ENDPOINT_ALERT_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "ENDPOINT_ETCD_PASSWORD": "hunter2",
    }
    settings = Settings.from_environ(environ)
    assert settings.tokens == ("a-token-of-some-length",)
    assert settings.alert_webhook == "https://hooks.example/T0P-SECRET?k=1"
    assert len(settings.alert_secret) == 24
    assert settings.etcd.password == "hunter2"
    for secret in ("a-token", "T0P", "whsec", "hunter2"):
        assert secret not in repr(settings)
    assert not settings.warnings


@pytest.mark.parametrize(("value", "seconds"), [("0", 0), ("0.1", 0.1), ("30", 30), ("", 0)])
def test_checks_come_so_often(value: str, seconds: float) -> None:
    """The probe interval is a number of seconds, and 0 means never."""
    assert Settings.from_environ({"ENDPOINT_PROBE_INTERVAL": value}).probe_interval == seconds


@pytest.mark.parametrize("value", ["0.05", "-1", "1e3", "nan", "99999999999"])
def test_checks_that_would_be_an_attack_are_refused(value: str) -> None:
    """An interval below 0.1 s, or a text that is not a number, is an error."""
    with pytest.raises(SettingsError, match=r"ENDPOINT_PROBE_INTERVAL.*0\.1"):
        Settings.from_environ({"ENDPOINT_PROBE_INTERVAL": value})


@pytest.mark.parametrize(
    ("value", "seconds"), [("3600", 3600), ("90m", 5400), ("12h", 43200), ("7d", 604800)]
)
def test_the_life_of_a_signature_is_seconds_or_has_a_unit(value: str, seconds: float) -> None:
    """The lifetime is a number of seconds, or a number with a unit."""
    assert Settings.from_environ({"ENDPOINT_SIGNING_TTL": value}).signing_ttl == seconds


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ("etcd://localhost/mop/list", "etcd://localhost:2379/mop/list"),
        ("etcd://A.example:1,[::1]:2//k", "etcd://a.example:1,[::1]:2//k"),
    ],
)
def test_a_key_in_etcd_may_be_the_source(value: str, source: str) -> None:
    """The URL of a key in etcd is normalised, with default ports."""
    assert Settings.from_environ({"ENDPOINT_CONFIG_FILE": value}).source == source


@pytest.mark.parametrize("name", ["tokens", "cors_origins", "trusted_hosts"])
def test_a_text_is_no_tuple_of_texts(name: str) -> None:
    """A text in code is refused: each of its characters would be a token that may do everything."""
    with pytest.raises(TypeError, match=f"{name} must be a tuple of texts"):
        Settings(**{name: "sekret-token-12345"})  # type: ignore[arg-type]
