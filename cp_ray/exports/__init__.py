"""Training rows in the forms that other tools read."""
