"""What a ring of flags without an order comes to. docs/freeze.md has the argument."""
