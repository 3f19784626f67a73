"""Each prints one table and appends one JSON line to results.jsonl."""
