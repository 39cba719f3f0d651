"""The source of the list: a file or a key in etcd, how it is read, and how a change is noticed.

Read ``file`` first; ``etcd`` is the other source.
"""

from ...errors import SettingsError
from ...model.address import EtcdAddress
from ..settings import Settings
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
        etcd = settings.etcd
        for name, needed in (("user", "password"), ("password", "user"), ("key", "cert")):
            if getattr(etcd, name) is not None and getattr(etcd, needed) is None:
                allowed = f"set where ENDPOINT_ETCD_{name.upper()} is"
                raise SettingsError(f"ENDPOINT_ETCD_{needed.upper()}", "", allowed)
        tls_context(etcd)
