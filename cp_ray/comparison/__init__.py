"""cp-ray compare: two runs, held against each other on the items that both have."""
