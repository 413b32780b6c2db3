"""Everything that is to be known of a GPU: right numbers, equal bits, graph capture, times."""
