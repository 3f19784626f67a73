"""Where seeds come from: the questions in our wording, and how many people gave which answer."""
