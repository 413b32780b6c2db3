"""What python -m fastrnn runs, and the comparisons of speed that bench/ shares with it."""
