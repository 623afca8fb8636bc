"""What `demo` and `bench` are made of: processes that measure, and what they measure."""
