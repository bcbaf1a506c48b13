"""From a Hugging Face checkpoint to a bundle: checkpoint → decoder + recipe → graph → bundle."""
