"""From examples to adapters: config, data (template, mask, shared prompts), loop, fit (Ray Train, DeepSpeed)."""
