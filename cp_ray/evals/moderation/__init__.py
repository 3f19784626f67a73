"""Content moderation: the public test sets that CultureLLM and CulturePark were judged on, from a user's folder."""
