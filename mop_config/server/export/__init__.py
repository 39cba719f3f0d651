"""Publish the list as a folder of files that any web server can serve.

Read ``files`` first, which renders the files; then ``public_folder``, which writes them without
following foreign links; then ``exporter``, which follows the source.
"""
