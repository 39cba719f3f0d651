"""The source that the settings name: a file, or a key in etcd."""

from ...errors import SettingsError
from ...model.address import EtcdAddress
from ..settings import EtcdSettings, Settings
from .etcd_gateway import tls_context
from .etcd_source import EtcdSource
from .file import FileSource

Source = FileSource | EtcdSource

SCHEME = "etcd://"


def open_source(settings: Settings) -> Source:
    """Make the source; nothing is read yet."""
    if not settings.source.startswith(SCHEME):
        return FileSource(settings.source, settings.max_bytes)
    return EtcdSource(EtcdAddress.parse(settings.source), settings.etcd, settings.max_bytes)


def check_source(settings: Settings) -> None:
    """Check that the source can be used at all, before a server is started for it.

    A worker that starts later does not check: a certificate that is being replaced must not end
    a service.

    Raises:
        SettingsError: If a setting of etcd cannot be used.
    """
    if settings.source.startswith(SCHEME):
        _check_pairs(settings.etcd)
        tls_context(settings.etcd)


def _check_pairs(etcd: EtcdSettings) -> None:
    if etcd.password is not None and etcd.user is None:
        raise SettingsError("ENDPOINT_ETCD_USER", "", "set where ENDPOINT_ETCD_PASSWORD is")
    if etcd.user is not None and etcd.password is None:
        raise SettingsError("ENDPOINT_ETCD_PASSWORD", "", "set where ENDPOINT_ETCD_USER is")
    if etcd.key is not None and etcd.cert is None:
        raise SettingsError("ENDPOINT_ETCD_CERT", "", "set where ENDPOINT_ETCD_KEY is")
