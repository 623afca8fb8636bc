"""The plugin for vLLM: by itself, against vLLM's layout, and against the source of its releases."""
