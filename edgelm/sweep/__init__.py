"""Many recipes of one model, exported and measured: which of them is worth its bytes?"""
