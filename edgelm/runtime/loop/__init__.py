"""The generate loop: from ids to chunks of text."""
