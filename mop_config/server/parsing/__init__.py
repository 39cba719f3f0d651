"""From an endpoint file's text to the bytes that are served. Pure.

Read ``problems``, ``parser`` and ``render`` in this order.
"""
