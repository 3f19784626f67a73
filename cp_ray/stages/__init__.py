"""What happens to rows, one file per stage, plain functions: seeds dialogue extract verify dedup examples."""
