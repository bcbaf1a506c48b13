"""Tokenizers, chat templates and special tokens; vocabularies cut to a domain."""
