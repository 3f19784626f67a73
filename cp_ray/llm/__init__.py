"""The only door to a model: call (what is asked), endpoint (over HTTP), limiter, ledger, embedded, scripted."""
