"""How good a bundle is: perplexity on a text, exact match on a task."""
