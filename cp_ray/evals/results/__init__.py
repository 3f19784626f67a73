"""What evaluations came to: sections of sentences, tables and figures, as one HTML page and as Markdown."""
