"""What stands in for vLLM: packages in folders that are put on the path."""

REFUSED, BROKEN = 0.123, 0.321
"""top_p of requests that it calls wrong, and of those that it breaks at."""
SLOW = 400
"""max_tokens of requests that take it 40 s."""
