"""OpenAI's hosted fine-tuning as another trainer: it gives a model's name at the provider's, no adapter folder.

config.py what is trained; provider.py the interface; jobs.py which jobs a run has; fit.py start and watch; command.py
"""
