"""How well a model understands a culture: one file per evaluation, and the report."""
