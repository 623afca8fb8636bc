"""The package's version, read from its metadata by the build."""

__version__ = "0.1.0"
