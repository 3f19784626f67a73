"""cp_ray: survey answers into language models that understand a culture, on Ray."""

__version__ = "0.1.0"
