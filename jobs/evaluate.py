"""Models in, one report on all of them out: adapters of a run, the untrained base, models behind endpoints.

cp-ray evaluate --root runs/demo                                      # the run's adapters: survey and forgetting
cp-ray evaluate --root runs/demo --moderation DATA --rows 200         # and every test set that is in a folder
cp-ray evaluate --root runs/demo --hofstede dimensions.csv            # and Hofstede's dimensions
cp-ray evaluate --root runs/demo --benchmarks FOLDER --rows 100       # and BBH and GSM8K
cp-ray evaluate --root runs/eval --run runs/demo --models all,gpt-4o-mini@https://api.openai.com/v1 --budget 5usd
ray job submit --working-dir . -- python jobs/evaluate.py --root /shared/runs/demo
"""

from cp_ray.cli import run_recipe
from cp_ray.steps.evaluate import evaluate

__all__ = ["evaluate"]

if __name__ == "__main__":
    run_recipe(evaluate)
