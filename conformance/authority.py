"""A temporary certificate authority, and the TLS contexts of the scripted endpoints."""

import ssl
from pathlib import Path

import trustme


class Authority:
    """A certificate authority that exists for one run.

    Args:
        folder: Folder to which the authority's certificate is written for the client.

    Attributes:
        path: File of the authority's certificate, in PEM.
        good: TLS context with a certificate for this machine.
        wrong: TLS context with a certificate for another host name.
    """

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.path = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.path))
        self.good = _context(authority, "127.0.0.1", "localhost")
        self.wrong = _context(authority, "elsewhere.example")

    def environment(self) -> dict[str, str]:
        """Return the environment variables that make OpenSSL, Python and Node trust it."""
        return {"SSL_CERT_FILE": str(self.path), "NODE_EXTRA_CA_CERTS": str(self.path)}


def _context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context
