"""A key in etcd as the source of the text."""

import time

from ...errors import SourceError
from ...model.address import EtcdAddress
from ..parsing.problems import Code
from ..settings import EtcdSettings
from .etcd import Etcd
from .file import Fingerprint, SourceText


class EtcdSource:
    """A key in etcd v3, whose value is the text of an endpoint file.

    Args:
        address: The members and the key.
        settings: The login and the certificates.
        max_bytes: Limit of the text's length in bytes.
    """

    def __init__(self, address: EtcdAddress, settings: EtcdSettings, max_bytes: int) -> None:
        self.etcd = Etcd(address, settings, max_bytes)
        self._seen = Fingerprint(0)

    def __str__(self) -> str:
        return self.etcd.address.text

    def signature(self) -> Fingerprint:
        """Return the revision that was read last, without a request to etcd."""
        return self._seen

    def being_written(self) -> bool | None:
        """Return False: a key is written in one step."""
        return False

    def read(self) -> SourceText:
        """Read the key by a majority of the members.

        Raises:
            SourceError: With code ``missing``, ``too-large``, ``unreadable`` (etcd refuses)
                or ``unreachable``.
        """
        began = time.time()
        found = self.etcd.get()
        if found is None:
            raise SourceError(Code.MISSING, f"{self} is missing: there is no such key")
        self._seen = Fingerprint(0, size=len(found.data), mtime_ns=found.revision)
        return SourceText(found.data, began, self._seen, found.revision, found.cluster)

    def is_current(self, text: SourceText) -> bool:
        """Whether the key may still hold a text; its revision tells, without asking etcd again."""
        return True
