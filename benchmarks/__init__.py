"""Benchmarks: each prints one table and appends a line to results.jsonl."""

import os

# Read by Ray when it is first imported: listen on loopback alone.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
