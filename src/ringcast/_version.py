"""The package's version, read from its metadata by the build, and that of what links say to each other."""

__version__ = "0.1.0"

WIRE_VERSION = 1
"""Of all that passes between links: see `ringcast.net.link._hello`."""
