"""English sentences: their words with parts of speech, and what is said of a people told in the first person."""
