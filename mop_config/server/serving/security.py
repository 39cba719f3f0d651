"""What every answer tells a browser, so that nobody can make more of it than it is. Pure."""

#: Nothing may be loaded, framed or sent from an answer; a page of ours names what it needs.
CONTENT_SECURITY_POLICY = "default-src 'none'; frame-ancestors 'none'"

#: On each answer, whatever its status; a view may give another policy.
SECURITY_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("Referrer-Policy", "no-referrer"),
]
