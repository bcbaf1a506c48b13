"""The text edgelm's demo model is trained on: word lists, templates and the splits made from them."""
