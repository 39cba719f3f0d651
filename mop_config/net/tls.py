"""TLS contexts that offer protocols of ours and leave the user's context as it is."""

import ssl
from collections.abc import Sequence


def offering(context: ssl.SSLContext, protocols: Sequence[str]) -> ssl.SSLContext:
    """Make a context that verifies as another one does, and offers its own ALPN protocols.

    ALPN can be set on a context only, and the context that the user hands in may be in use
    elsewhere at the same time. So connections are made from a context of ours, and change to
    the user's before the handshake: OpenSSL takes authorities, ciphers and the client's
    certificate from that one.

    Args:
        context: Whom to trust. It is not changed, unless it is of a class of its own, which
            verifies in ways that cannot be borrowed.
        protocols: To offer, by their ALPN names, the preferred first.
    """
    lender = getattr(context.sslobject_class, "lender", context)
    if type(lender) is not ssl.SSLContext:
        lender.set_alpn_protocols(list(protocols))
        return lender

    class Socket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            self.context = lender
            super().do_handshake(block)

    class Object(ssl.SSLObject):
        def do_handshake(self) -> None:
            self.context = lender
            super().do_handshake()

    Object.lender = lender  # type: ignore[attr-defined]
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ours.check_hostname = False  # or the mode could not be set
    for name in (
        *("options", "verify_flags", "verify_mode", "check_hostname", "post_handshake_auth"),
        *("minimum_version", "maximum_version", "hostname_checks_common_name"),
    ):
        setattr(ours, name, getattr(lender, name))
    ours.sslsocket_class, ours.sslobject_class = Socket, Object
    ours.set_alpn_protocols(list(protocols))
    return ours
