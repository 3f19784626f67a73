"""BBH and GSM8K, by lm-evaluation-harness, from files of the user's: what a model can do besides culture."""
