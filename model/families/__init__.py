"""Model families: each module maps foreign checkpoints onto the canonical Transformer."""
