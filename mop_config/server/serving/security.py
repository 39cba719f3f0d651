"""The security headers of every answer: a browser may load, frame or send nothing from it. Pure."""

#: The default policy allows nothing; the dashboard names what it needs.
CONTENT_SECURITY_POLICY = "default-src 'none'; frame-ancestors 'none'"

#: On each answer of any status; a view may set another policy.
SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("Referrer-Policy", "no-referrer"),
)
