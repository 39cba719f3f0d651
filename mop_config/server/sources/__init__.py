"""The source of the list: a file or a key in etcd, how it is read, and how a change is noticed.

Read ``file`` first, then ``watch``, which decides when the file is read. ``etcd`` is the other
source.
"""

from ...errors import SettingsError
from ...model.address import EtcdAddress
from ..settings import EtcdSettings, Settings
from .etcd import EtcdSource, tls_context
from .file import FileSource

Source = FileSource | EtcdSource

SCHEME = "etcd://"


def open_source(settings: Settings) -> Source:
    """Make the source that the settings name, without reading it."""
    if not settings.source.startswith(SCHEME):
        return FileSource(settings.source, settings.max_bytes)
    return EtcdSource(EtcdAddress.parse(settings.source), settings.etcd, settings.max_bytes)


def check_source(settings: Settings) -> None:
    """Validate the settings of the source, before a server starts.

    A worker that starts later does not validate again, because a certificate that is being replaced
    must not stop the service.

    Raises:
        SettingsError: If a setting of etcd is invalid.
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
