"""Hofstede's six dimensions, by the Values Survey Module 2013 put to simulated respondents."""
