"""Graph edits that specialise the canonical graph for a target, one file each."""
