"""Does one wording of a survey question ask the same as another? Words, rules, and a judge with sentence embeddings."""
