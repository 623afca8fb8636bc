"""The protocol's model: `check` explores it, `freeze` shows what a ring of plain flags does instead."""
