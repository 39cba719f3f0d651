"""The source that the settings name: a file, or a key in etcd."""

import ssl
from importlib.util import find_spec

from ...errors import SettingsError
from ...model.address import EtcdAddress
from ..settings import EtcdSettings, Settings
from .etcd_source import EtcdSource
from .file import FileSource

Source = FileSource | EtcdSource

SCHEME = "etcd://"


def open_source(settings: Settings) -> Source:
    """Make the source; nothing is read yet.

    Raises:
        SettingsError: If it is in etcd, and the extra that this needs is not installed.
    """
    if not settings.source.startswith(SCHEME):
        return FileSource(settings.source, settings.max_bytes)
    if find_spec("etcd3gw") is None:
        allowed = "a file, as long as etcd3gw is missing (pip install 'mop-config[etcd]')"
        raise SettingsError("ENDPOINT_CONFIG_FILE", settings.source, allowed)
    address = EtcdAddress.parse(settings.source)
    return EtcdSource(address, settings.etcd, settings.max_bytes)


def check_source(settings: Settings) -> None:
    """See whether the source can be used at all, before a server is started for it.

    A worker that is born later does without: a certificate that is just being replaced must
    not end a service.

    Raises:
        SettingsError: If it cannot be.
    """
    if isinstance(open_source(settings), EtcdSource):
        _check_login(settings.etcd)
        _check_certificates(settings.etcd)


def _check_login(etcd: EtcdSettings) -> None:
    if etcd.password is not None and etcd.user is None:
        raise SettingsError("ENDPOINT_ETCD_USER", "", "set where ENDPOINT_ETCD_PASSWORD is")
    if etcd.user is not None and etcd.password is None:
        raise SettingsError("ENDPOINT_ETCD_PASSWORD", "", "set where ENDPOINT_ETCD_USER is")


def _check_certificates(etcd: EtcdSettings) -> None:
    context = ssl.create_default_context()
    if etcd.ca is not None:
        try:
            context.load_verify_locations(etcd.ca)
        except OSError as error:
            allowed = f"a file of certificates in PEM ({_reason(error)})"
            raise SettingsError("ENDPOINT_ETCD_CA", etcd.ca, allowed) from None
    if etcd.cert is None:
        if etcd.key is not None:
            raise SettingsError("ENDPOINT_ETCD_CERT", "", "set where ENDPOINT_ETCD_KEY is")
        return
    try:
        # A key with a password would be asked for on the terminal.
        context.load_cert_chain(etcd.cert, etcd.key, password=lambda: "")
    except OSError as error:
        allowed = (
            "a certificate in PEM, with its key, which has no password, in the same file or in"
            f" ENDPOINT_ETCD_KEY ({_reason(error)})"
        )
        raise SettingsError("ENDPOINT_ETCD_CERT", etcd.cert, allowed) from None


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "no PEM"
    return error.strerror or str(error)
