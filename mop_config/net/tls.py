"""TLS contexts that offer our own ALPN protocols without changing the user's context."""

import ssl
from collections.abc import Sequence


def offering(context: ssl.SSLContext, protocols: Sequence[str]) -> ssl.SSLContext:
    """Return a context that verifies like the user's context and offers our ALPN protocols.

    ALPN is a property of a context, and the user's context may be in use elsewhere. So
    connections start with our own context and switch to the user's context before the handshake.
    OpenSSL then takes authorities, ciphers and the client certificate from the user's context.

    Args:
        context: The user's context. Only a context of a subclass is changed itself, because its
            own verification cannot be borrowed.
        protocols: ALPN names, the preferred name first.
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
    ours.check_hostname = False  # else the verify mode could not be changed
    for name in (
        "options",
        "verify_flags",
        "verify_mode",
        "check_hostname",
        "post_handshake_auth",
        "minimum_version",
        "maximum_version",
        "hostname_checks_common_name",
    ):
        setattr(ours, name, getattr(lender, name))
    ours.sslsocket_class, ours.sslobject_class = Socket, Object
    ours.set_alpn_protocols(list(protocols))
    return ours
